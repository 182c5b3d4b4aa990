"""CPU seconds per event against peers, over the same stream: ``python -m benchmarks.speed [--events N] [--runs N]``.

The clients take turns, each run in a process of its own against a load server in another; medians are quoted, and
ratios against crux_sync decoding messages. ``--compute N``: with N threads of pure Python beside the client.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile

import trustme

from .clients import CLIENTS
from .load import Stream, serve
from .plot import bars

OURS = "crux_sync, messages"


def start_server(stream: Stream, *, tls: bool) -> tuple[multiprocessing.Process, str, str]:
    """The load server's process, its url, and a file that makes clients trust it."""
    context, authority = None, ""
    if tls:
        made = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.issue_cert("127.0.0.1").configure_cert(context)
        with tempfile.NamedTemporaryFile(suffix=".pem", delete=False) as file:
            file.write(made.cert_pem.bytes())
        authority = file.name
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(target=serve, args=(listener, stream, context), daemon=True)
    process.start()
    port = listener.getsockname()[1]
    listener.close()
    return process, f"{'wss' if tls else 'ws'}://127.0.0.1:{port}", authority


def measure(name: str, url: str, authority: str, compute: int, timeout: float) -> dict[str, float] | None:
    command = [sys.executable, "-m", "benchmarks.clients", name, url, authority, str(compute)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode or not done.stdout:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--compute", type=int, default=0)
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE", help="draw the medians as SVG")
    parser.add_argument("--only", nargs="*", default=list(CLIENTS), choices=list(CLIENTS))
    options = parser.parse_args()
    os.environ["CRUX_BENCHMARK_EVENTS"] = str(options.events)
    stream = Stream(options.events)
    json_size, wire_size = stream.json_bytes / options.events, stream.compressed_bytes / options.events
    print(f"{options.events} events, {json_size:.0f} bytes of JSON each, {wire_size:.0f} compressed")
    medians: dict[str, dict[str, float]] = {}
    for tls in (False, True):
        server, url, authority = start_server(stream, tls=tls)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
        for _ in range(options.runs):
            for name in options.only:
                result = measure(name, url, authority, options.compute, timeout=120)
                if result is not None:
                    runs[name].append(result)
        server.terminate()
        server.join()
        scheme = "wss" if tls else "ws"
        show(scheme, runs, options.events, computing=options.compute > 0)
        medians[scheme] = {
            name: statistics.median(run["cpu"] for run in results) / options.events * 1e6
            for name, results in runs.items()
            if results and name != "inflate + scan alone"
        }
    if options.plot:
        options.plot.write_text(bars(medians, "CPU, µs per event (median)", "crux_sync"), encoding="utf-8")


def show(scheme: str, runs: dict[str, list[dict[str, float]]], events: int, *, computing: bool) -> None:
    def microseconds(name: str, key: str) -> float:
        values = [run[key] for run in runs[name]]
        return statistics.median(values) / events * 1e6 if values else float("nan")

    key = "wall" if computing else "cpu"
    base = microseconds(OURS, key) if runs.get(OURS) else float("nan")
    print(f"\n{scheme:24} {'CPU µs/event':>13} {'spread':>15} {'events/s':>10} {'ratio':>7}")
    for name, results in runs.items():
        if not results:
            print(f"{name:24} not finished in time")
            continue
        all_cpu = sorted(run["cpu"] / events * 1e6 for run in results)
        print(
            f"{name:24} {microseconds(name, 'cpu'):13.2f} {all_cpu[0]:7.2f}-{all_cpu[-1]:<7.2f} "
            f"{1e6 / microseconds(name, 'wall'):10.0f} {microseconds(name, key) / base:7.2f}"
        )


if __name__ == "__main__":
    main()
