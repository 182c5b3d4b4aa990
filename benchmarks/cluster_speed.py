"""Events through Redis: ``python -m benchmarks.cluster_speed [--events N] [--seconds S]``.

One gateway process, one Redis with an append-only file, two worker processes; the load of ``benchmarks.speed`` as fast
as it is taken, beside the same stream delivered to callbacks in one process. Then the lag at a steady 1,000 events/s,
from the server's send to the callback in a worker. CPU is that of all processes but the server. Linux only (/proc).
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import threading
import time

from crux_sync.cluster.client import connect
from crux_sync.cluster.config import agree
from crux_sync.cluster.keys import PARTITIONS, Keys
from crux_sync.cluster.status import Observer

from . import load, paced
from .cluster import RedisServer

WORKERS = 2

#: How long anything may take, seconds.
PATIENCE = 180.0

GATEWAY = """
import sys
from crux_sync import Intents
from crux_sync.cluster import ClusterGateway
ClusterGateway("test", redis=sys.argv[1], url=sys.argv[2], shard_count=1, intents=Intents.all()).run()
"""

#: Prints the delays it has seen, seconds.
WORKER = """
import json, sys, time
from crux_sync.cluster import Worker
worker, delays = Worker(sys.argv[1]), []
@worker.on()
def note(event):
    sent = event.data.get("sent")
    if sent is not None:
        delays.append((time.monotonic_ns() - sent) / 1e9)
worker.run()
print(json.dumps(delays))
"""

DIRECT = """
import sys, threading, time
from crux_sync import Gateway, Intents
gateway, done, started = Gateway("test", url=sys.argv[1], shard_count=1, intents=Intents.all()), threading.Event(), []
@gateway.on()
def note(event):
    event.data
    if event.type == "READY":
        started[:] = [time.perf_counter(), time.process_time()]
    elif event.type == sys.argv[2]:
        print(time.perf_counter() - started[0], time.process_time() - started[1])
        done.set()
gateway.start()
done.wait()
gateway.close(resume=True, timeout=1.0)
"""


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the cluster did not get there in time")
        threading.Event().wait(0.02)


class Cluster:
    """Redis, two workers that have their partitions, and a gateway that is started when it is asked for."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.server = RedisServer(stack)
        self.client = stack.enter_context(connect(self.server.url))
        self.keys = Keys("bot")
        agree(self.client, self.keys, partitions=PARTITIONS, shards=1)
        self.workers = [self._start(WORKER) for _ in range(WORKERS)]
        observer = stack.enter_context(Observer(self.server.url))
        until(lambda: self._spread(observer))

    def _spread(self, observer: Observer) -> bool:
        owners = [one["owner"] for one in observer.look()["partitions"]]
        return None not in owners and all(owners.count(one) == PARTITIONS // WORKERS for one in owners)

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, self.server.url, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._stack.callback(end, process)
        return process

    def connect(self, url: str) -> None:
        self.gateway = self._start(GATEWAY, url)

    @property
    def published(self) -> int:
        return int(self.client.hget(self.keys.published(0), "sequence") or 0)

    @property
    def drained(self) -> bool:
        return not any(self.client.xlen(self.keys.events(number)) for number in range(PARTITIONS))

    def cpu(self) -> list[float]:
        """Of the gateway, Redis, and the workers together."""
        workers = sum(cpu_seconds(process.pid) for process in self.workers)
        return [cpu_seconds(self.gateway.pid), cpu_seconds(self.server.process.pid), workers]


def end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.terminate()
        process.communicate()


def serve(stack: contextlib.ExitStack, count: int) -> str:
    """The load server in a process of its own; its url."""
    stream = load.Stream(count)
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(target=load.serve, args=(listener, stream, None), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(process.terminate)
    port = listener.getsockname()[1]
    listener.close()
    return f"ws://127.0.0.1:{port}"


def direct(count: int) -> tuple[float, float]:
    """Events a second, and CPU microseconds an event, in one process."""
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", DIRECT, serve(stack, count), load.LAST]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    wall, cpu = map(float, done.stdout.split())
    return count / wall, cpu / count * 1e6


def through(count: int) -> tuple[float, list[float]]:
    """Events a second, and CPU microseconds an event of gateway, Redis and workers."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(stack)
        cluster.connect(serve(stack, count))
        until(lambda: cluster.published > 1)
        began, behind, before = time.perf_counter(), cluster.published, cluster.cpu()
        until(lambda: cluster.published == count + 1 and cluster.drained)
        wall, events = time.perf_counter() - began, count + 1 - behind
        spent = [(now - then) / events * 1e6 for now, then in zip(cluster.cpu(), before, strict=True)]
    return events / wall, spent


def lag(rate: float, seconds: float) -> list[float]:
    """Delays from the send to the callback, seconds, sorted."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(stack)
        server, url = paced.start(1, rate, seconds)
        stack.callback(server.join)
        stack.callback(server.terminate)
        cluster.connect(url)
        until(lambda: cluster.published >= rate * seconds + 2 and cluster.drained)
        delays: list[float] = []
        for process in cluster.workers:
            process.terminate()
            delays += json.loads(process.communicate()[0])
    return sorted(delays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1000.0, help="of the lag, events a second (default: 1000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the lag (default: 20)")
    options = parser.parse_args()
    for _ in range(options.runs):
        rate, cpu = direct(options.events)
        print(f"in one process: {rate:8.0f} events/s, {cpu:6.1f} CPU µs an event", flush=True)
        through_rate, spent = through(options.events)
        print(
            f"through Redis:  {through_rate:8.0f} events/s, {sum(spent):6.1f} CPU µs an event (gateway {spent[0]:.1f}, "
            f"Redis {spent[1]:.1f}, workers {spent[2]:.1f}): {rate / through_rate:.1f} times slower, "
            f"{sum(spent) / cpu:.1f} times the CPU",
            flush=True,
        )
    delays = lag(options.rate, options.seconds)
    cuts = statistics.quantiles(delays, n=1000, method="inclusive")
    print(
        f"lag at {options.rate:g} events/s, ms: p50 {cuts[499] * 1e3:.1f}, p99 {cuts[989] * 1e3:.1f}, "
        f"p99.9 {cuts[998] * 1e3:.1f}, worst {delays[-1] * 1e3:.1f} ({len(delays)} events)"
    )


if __name__ == "__main__":
    main()
