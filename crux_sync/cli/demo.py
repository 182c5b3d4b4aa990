"""``crux-sync demo``: an offline Discord and a gateway in one process; nothing may be lost."""

import argparse
import sys
import threading
import time
from collections import Counter

from ..events import Event
from ..gateway import Gateway
from ..intents import Intents
from .options import Commands, count, positive
from .progress import shard_progress

#: How long the last events may take to arrive, seconds.
PATIENCE = 10.0


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("demo", help="run a gateway against an offline Discord, and count what arrives")
    parser.add_argument("--seconds", type=positive, default=5.0, help="of traffic (default: 5)")
    parser.add_argument("--shards", type=count, default=4, help="default: 4")
    parser.add_argument("--rate", type=positive, default=200.0, help="events a second (default: 200)")
    parser.set_defaults(run=run)


class Tally:
    """Counts what the callbacks see. Only the one worker thread writes."""

    def __init__(self) -> None:
        self.types: Counter[str] = Counter()
        self.received: set[tuple[int, str, int]] = set()
        self.sessions: dict[int, str] = {}
        self.repeated = 0
        self.ready = threading.Event()

    def count(self, event: Event) -> None:
        name = event.type or ""
        if event.sequence is None:
            self.types[name] += 1
            if name != "SHARD_CONNECTED":
                print(f"shard {event.shard_id}: {describe(event)}", flush=True)
            return
        if name == "READY":
            self.sessions[event.shard_id] = event.data["session_id"]
        key = (event.shard_id, self.sessions.get(event.shard_id, ""), event.sequence)
        if key in self.received:
            self.repeated += 1
        self.received.add(key)
        self.types[name] += 1


def describe(event: Event) -> str:
    data = event.data
    if event.type == "SHARD_READY":
        return f"ready, {data['guilds']} guilds"
    if event.type == "SHARD_RESUMED":
        return "resumed"
    if event.type == "SHARD_DISCONNECTED":
        return f"disconnected: {data['reason']}{', will resume' if data['will_resume'] else ''}"
    return f"{event.type}: {data}"


def run(options: argparse.Namespace) -> int:
    from ..simulator import Simulator

    tally = Tally()
    with Simulator(shards=options.shards, max_concurrency=max(16, options.shards)) as discord:
        print(f"an offline Discord at {discord.api_url}", flush=True)
        gateway = Gateway("test", api_url=discord.api_url, intents=Intents.all())
        gateway.on()(tally.count)
        with gateway:
            shard_progress(gateway, PATIENCE)
            ready = sum(shard.state == "ready" for shard in gateway.shards.values())
            traffic = discord.traffic(options.rate)
            show(tally, options.seconds / 2)
            print("shard 0: the server asks for a reconnect", flush=True)
            discord.reconnect(0)
            show(tally, options.seconds / 2)
            traffic.stop()
            deadline = time.monotonic() + PATIENCE
            resumed = discord.wait_for(lambda: discord.resumes, PATIENCE)
            while len(tally.received) < discord.sent and time.monotonic() < deadline:
                threading.Event().wait(0.02)
        sent, received = discord.sent, len(tally.received)
        for rule in discord.violations:
            print(f"rule broken: {rule}", file=sys.stderr)
        lost = sent - received
        resumes = len(discord.resumes)
        print(f"demo: {ready} shards ready, {received} events received, {sent} sent, {lost} lost, {resumes} resumed")
        complete = lost == 0 and ready == options.shards and resumed and not discord.violations and not tally.repeated
        return 0 if complete else 1


def show(tally: Tally, seconds: float) -> None:
    """Once a second, what has arrived so far."""
    end = time.monotonic() + seconds
    while (remaining := end - time.monotonic()) > 0:
        threading.Event().wait(min(remaining, 1.0))
        common = ", ".join(f"{number} {name}" for name, number in sorted(tally.types.items()) if "SHARD" not in name)
        print(f"{len(tally.received)} events: {common}", flush=True)
