"""What many shards cost: ``python -m benchmarks.shards [idle] [startup] [traffic]``.

idle: threads, memory and CPU of 1, 100 and 1,000 idle shards against the simulator, and the latest heartbeat.
startup: 32 shards at max_concurrency 16, against the 5 s that the identify rule asks for.
traffic: CPU per event with 64 shards, and with each read by its own thread, against 64 bare threads that only receive
and inflate the same total.
Every client runs in a process of its own; servers in others.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from .load import LAST
from .paced import start

#: More than one heartbeat interval, so that every shard beats while it is watched.
IDLE_SECONDS = 50.0

TRAFFIC_SHARDS = 64


# ------------------------------------------------------------------ clients, each in a process of its own


def resident() -> int:
    """Resident memory of this process, KB."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


def idle(url: str, count: int) -> dict[str, float]:
    from crux_sync import Gateway
    from crux_sync.limits import LocalIdentifyLimiter

    limiter = LocalIdentifyLimiter(count, period=0)
    gateway = Gateway("test", url=url, shard_count=count, identify_limiter=limiter)
    gateway.start()
    wait_ready(gateway)
    threading.Event().wait(2.0)
    cpu, began = time.process_time(), time.monotonic()
    threading.Event().wait(IDLE_SECONDS)
    share = (time.process_time() - cpu) / (time.monotonic() - began)
    late = gateway.stats().worst_timer_delay
    return {"memory": resident(), "cpu": share, "late": late, "threads": threading.active_count()}


def startup(api_url: str, count: int) -> dict[str, float]:
    from crux_sync import Gateway

    gateway = Gateway("test", api_url=api_url, shard_count=count)
    began = time.monotonic()
    gateway.start()
    wait_ready(gateway)
    return {"seconds": time.monotonic() - began}


def wait_ready(gateway: object) -> None:
    shards = list(gateway.shards.values())  # type: ignore[attr-defined]
    while any(shard.state != "ready" for shard in shards):
        threading.Event().wait(0.005)


def ours(url: str, count: int, *, apart: bool = False) -> dict[str, float]:
    """64 shards and nobody who listens but for the last event. ``apart``: each thread reads for its own shard."""
    from crux_sync import Gateway, Intents
    from crux_sync.limits import LocalIdentifyLimiter

    limiter = LocalIdentifyLimiter(count, period=0)
    gateway = Gateway("test", url=url, shard_count=count, intents=Intents.all(), identify_limiter=limiter)
    last, done = [0], threading.Event()

    def finished(event: object) -> None:
        last[0] += 1
        if last[0] == count:
            done.set()

    gateway.on(LAST)(finished)
    if apart:  # a function of the user's makes it so, and this one is never called
        gateway.subscribe("RESUMED", selector=bool)
    gateway.start()
    wait_ready(gateway)
    cpu = time.process_time()
    done.wait()
    return {"cpu": time.process_time() - cpu}


def bare(url: str, count: int) -> dict[str, float]:
    """Threads that receive and inflate, and do nothing else: not even JSON."""
    from zlib_ng import zlib_ng

    port = int(url.rpartition(":")[2])
    up = threading.Barrier(count + 1)

    def read() -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(b"GET / HTTP/1.1\r\nSec-WebSocket-Key: x\r\n\r\n")
        buffer = b""
        while b"\r\n\r\n" not in buffer:
            buffer += sock.recv(65536)
        buffer = buffer.partition(b"\r\n\r\n")[2]
        inflate = zlib_ng.decompressobj().decompress
        sock.sendall(b"identify")
        up.wait()
        while True:
            buffer += sock.recv(65536)
            position = 0
            while len(buffer) - position >= 4:
                length, head = buffer[position + 1], 2
                if length == 126:
                    length, head = buffer[position + 2] << 8 | buffer[position + 3], 4
                if position + head + length > len(buffer):
                    break
                text = inflate(buffer[position + head : position + head + length])
                position += head + length
                if LAST.encode() in text[:40]:
                    return
            buffer = buffer[position:]

    threads = [threading.Thread(target=read, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    up.wait()
    cpu = time.process_time()
    for thread in threads:
        thread.join()
    return {"cpu": time.process_time() - cpu}


CLIENTS: dict[str, Callable[[str, int], dict[str, float]]] = {
    "idle": idle,
    "startup": startup,
    "ours": ours,
    "apart": partial(ours, apart=True),
    "bare": bare,
}


def run(client: str, url: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.shards", "--client", client, url, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


# ------------------------------------------------------------------ figures


def with_simulator(client: str, count: int, concurrency: int, *, api: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "crux_sync", "simulate", "--shards", str(count), "--members", "2"]
    command += ["--max-concurrency", str(concurrency)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stderr is not None
    try:
        api_url = server.stdout.readline().strip()
        url = server.stderr.readline().rpartition("gateway: ")[2].strip()
        return run(client, api_url if api else url, count)
    finally:
        server.terminate()
        server.communicate()


def measure_idle() -> None:
    base = 0.0
    print(f"idle: {'shards':>7} {'threads':>8} {'KB beyond the first':>20} {'% of a core':>12} {'latest beat ms':>15}")
    for count in (1, 100, 1000):
        found = with_simulator("idle", count, count, api=False)
        base = base or found["memory"]
        each = (found["memory"] - base) / (count - 1) if count > 1 else 0.0
        print(
            f"idle: {count:7} {found['threads']:8} {each:20.1f} {100 * found['cpu']:12.2f} {1e3 * found['late']:15.1f}",
            flush=True,
        )


def measure_startup() -> None:
    seconds = [with_simulator("startup", 32, 16, api=True)["seconds"] for _ in range(3)]
    print(f"startup: 32 shards at concurrency 16 in {statistics.median(seconds):.3f} s; the rule asks for 5 s")


def measure_traffic(runs: int) -> None:
    for rate, seconds in ((6400.0, 10.0), (20_000.0, 5.0)):
        costs: dict[str, list[float]] = {"bare": [], "ours": [], "apart": []}
        for _ in range(runs):
            for client, found in costs.items():
                server, url = start(TRAFFIC_SHARDS, rate, seconds)
                found.append(run(client, url, TRAFFIC_SHARDS)["cpu"] / (rate * seconds) * 1e6)
                server.terminate()
                server.join()
        medians = {client: statistics.median(found) for client, found in costs.items()}
        print(
            f"traffic: {TRAFFIC_SHARDS} shards, {rate:g} events/s: {medians['ours']:.2f} µs of CPU an event, "
            f"bare threads {medians['bare']:.2f}: {medians['ours'] / medians['bare']:.2f} times; "
            f"each shard read by its own thread {medians['apart']:.2f}: {medians['apart'] / medians['bare']:.2f} times",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["idle", "startup", "traffic", []], help="default: all")
    parser.add_argument("--runs", type=int, default=3, help="of the traffic, medians are told (default: 3)")
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        name, url, count = options.client
        print(json.dumps(CLIENTS[name](url, int(count))), flush=True)
        os._exit(0)
    parts = options.parts or ["idle", "startup", "traffic"]
    if "traffic" in parts:
        measure_traffic(options.runs)
    if "startup" in parts:
        measure_startup()
    if "idle" in parts:
        measure_idle()


if __name__ == "__main__":
    main()
