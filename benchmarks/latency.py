"""From the server's send to the callback: ``python -m benchmarks.latency [--seconds S] [--rates 1 1000 10000]``.

One shard (with ``--shards N`` so many, the rate being that of all together), plain ws, zlib-stream, a callback that
reads its data; the server, in another process, stamps each event just before it sends it. Quiet, and with a thread of
pure Python beside it (``--compute``, default 0 and 1).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time

from .clients import compute
from .load import LAST
from .paced import start


def client(url: str, threads: int, shards: int) -> None:
    """In a process of its own: print the delays, seconds."""
    from crux_sync import Event, Gateway, Intents
    from crux_sync.limits import LocalIdentifyLimiter

    limiter = LocalIdentifyLimiter(shards, period=0)
    gateway = Gateway("test", url=url, shard_count=shards, intents=Intents.all(), identify_limiter=limiter)
    delays: list[float] = []
    done = threading.Semaphore(0)

    @gateway.on("MESSAGE_CREATE")
    def note(event: Event) -> None:
        sent = event.data["sent"]
        delays.append((time.monotonic_ns() - sent) / 1e9)

    gateway.on(LAST)(lambda event: done.release())
    for _ in range(threads):
        threading.Thread(target=compute, daemon=True).start()
    gateway.start()
    for _ in range(shards):
        done.acquire()
    print(json.dumps(delays), flush=True)
    os._exit(0)


def measure(rate: float, seconds: float, threads: int, shards: int) -> list[float]:
    server, url = start(shards, rate, seconds)
    command = [sys.executable, "-m", "benchmarks.latency", "--client", url, "--compute", str(threads)]
    command += ["--shards", str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=True)
    server.terminate()
    server.join()
    delays: list[float] = json.loads(done.stdout)
    return sorted(delays[len(delays) // 50 :])  # the first ones find everything cold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each figure (default: 20)")
    parser.add_argument("--rates", type=float, nargs="+", default=[1, 1000, 10_000], help="events a second")
    parser.add_argument("--compute", type=int, nargs="+", default=[0, 1], help="computing threads")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        client(options.client, options.compute[0], options.shards)
    print(
        f"{'events/s':>9} {'computing':>10} {'events':>8}",
        *(f"{name:>9}" for name in ("p50", "p99", "p99.9", "worst ms")),
    )
    for threads in options.compute:
        for rate in options.rates:
            delays = measure(rate, options.seconds, threads, options.shards)
            cuts = statistics.quantiles(delays, n=1000, method="inclusive") if len(delays) > 1 else delays * 999
            print(
                f"{rate:9g} {threads:10} {len(delays):8} {cuts[499] * 1e3:9.3f} {cuts[989] * 1e3:9.3f} "
                f"{cuts[998] * 1e3:9.3f} {delays[-1] * 1e3:9.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
