"""Random faults of every kind over several shards with traffic, TLS on; every event is numbered.

``python -m benchmarks.chaos [--minutes M] [--seed S] [--shards N] [--rate R]``

It prints what was sent, received, repeated, lost (missing although the server would still have replayed it),
unrecoverable (what sessions that the server ended took with them) and never known (what went to sessions whose READY a
fault destroyed on its way, until they expired), faults by kind, and rules broken. Exit status 0 only if nothing was
lost and no rule was broken.
"""

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from crux_sync import Event, Gateway, Intents
from crux_sync.simulator import Simulator

#: Rest between two faults, seconds.
PAUSE = (0.02, 0.25)

#: How long everything may take to arrive when the faults have ended.
PATIENCE = 90.0

RESUMABLE_CODES = (0, 1000, 1001, 4000, 4002, 4242)
ENDING_CODES = (4001, 4003, 4005, 4007, 4009)

FAULTS: dict[str, Callable[[Simulator, int, random.Random], None]] = {
    "op 7": lambda discord, shard, rng: discord.reconnect(shard),
    "op 7 before Hello": lambda discord, shard, rng: (discord.before_hello(), discord.drop(shard)),
    "op 7 in replay": lambda discord, shard, rng: (discord.reconnect_in_replay(rng.randrange(20)), discord.drop(shard)),
    "op 1": lambda discord, shard, rng: discord.request_heartbeat(shard),
    "op 9 true": lambda discord, shard, rng: discord.invalidate(shard, resumable=True),
    "op 9 false": lambda discord, shard, rng: discord.invalidate(shard),
    "close, session kept": lambda discord, shard, rng: discord.close_connection(shard, rng.choice(RESUMABLE_CODES)),
    "close, session ended": lambda discord, shard, rng: discord.close_connection(shard, rng.choice(ENDING_CODES)),
    "reset": lambda discord, shard, rng: discord.drop(shard),
    "end of stream": lambda discord, shard, rng: discord.end_connection(shard),
    "half-open": lambda discord, shard, rng: discord.half_open(shard),
    "no acks": lambda discord, shard, rng: discord.stop_acks(shard),
    "stall": lambda discord, shard, rng: discord.stall(shard),
    "garbage": lambda discord, shard, rng: discord.garbage(shard),
    "truncated deflate": lambda discord, shard, rng: discord.truncate_deflate(shard),
    "invalid json": lambda discord, shard, rng: discord.invalid_json(shard),
    "invalid utf-8": lambda discord, shard, rng: discord.invalid_utf8(shard),
    "unknown opcode": lambda discord, shard, rng: discord.unknown_opcode(shard),
    "unknown event": lambda discord, shard, rng: discord.unknown_event(shard),
    "array": lambda discord, shard, rng: discord.array_data(shard),
    "large message": lambda discord, shard, rng: discord.large_message(shard, 1_000_000),
    "split payloads": lambda discord, shard, rng: discord.split_messages(rng.randrange(1, 6)),
    "upgrade refused": lambda discord, shard, rng: (discord.refuse_upgrade(503), discord.drop(shard)),
}

#: Faults that end a session are rarer: each costs an identify.
ENDING = ("op 9 false", "close, session ended")


class Receiver:
    """Notes every event by session and number. Called on one worker thread."""

    def __init__(self) -> None:
        self.sessions: dict[int, str] = {}
        self.received: dict[str, Counter[int]] = {}
        self.out_of_order = 0
        self._last: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        if event.sequence is None:
            return
        if event.type == "READY":
            self.sessions[event.shard_id] = event.data["session_id"]
        session = self.sessions[event.shard_id]
        self.received.setdefault(session, Counter())[event.sequence] += 1
        if event.sequence < self._last.get(session, 0):
            self.out_of_order += 1
        self._last[session] = event.sequence

    def missing(self, discord: Simulator) -> "Missing":
        """Events that never came, by what became of their session."""
        resumed = {session_id for _, _, session_id in discord.resumes}
        counts = Missing()
        for session in discord.session_history:
            events = session.sequence - len(self.received.get(session.session_id, ()))
            if session.session_id not in self.received and session.session_id not in resumed:
                counts.never_known += events
            elif session.ended and not session.expired:
                counts.unrecoverable += events
            else:
                counts.lost += events
                if events:
                    counts.details.append(f"{events} of {session.sequence} events, {session}")
        return counts


@dataclass
class Missing:
    """Events that never came."""

    #: Of sessions that are alive, or that expired because the client did not come back: it could have had them.
    lost: int = 0
    #: Of sessions that the server ended.
    unrecoverable: int = 0
    #: Of sessions whose READY a fault destroyed: the client never learned their id.
    never_known: int = 0
    #: The sessions that events were lost of.
    details: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--ending", type=int, default=1, help="weight of faults that end a session; others: 5")
    parser.add_argument("--rate", type=float, default=1000.0, help="events a second over all shards")
    options = parser.parse_args()
    weights = [options.ending if name in ENDING else 5 for name in FAULTS]
    rng, receiver, done = random.Random(options.seed), Receiver(), Counter[str]()
    settings = {"heartbeat_interval": 1.0, "heartbeat_tolerance": 4.0, "total": 10**6, "remaining": 10**6}
    with Simulator(shards=options.shards, tls=True, seed=options.seed, log_age=3600, **settings) as discord:
        gateway = Gateway("test", api_url=discord.api_url, ssl_context=discord.ssl_context, intents=Intents.all())
        gateway.on()(receiver)
        gateway.start()
        discord.wait_ready()
        traffic = discord.traffic(options.rate)
        pause, end = threading.Event(), time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            name = rng.choices(list(FAULTS), weights)[0]
            FAULTS[name](discord, rng.randrange(options.shards), rng)
            done[name] += 1
            pause.wait(rng.uniform(*PAUSE))
        traffic.stop()
        deadline = time.monotonic() + PATIENCE
        while receiver.missing(discord).lost and time.monotonic() < deadline:
            pause.wait(0.1)
        gateway.close(resume=True)
        return report(discord, gateway, receiver, done)


def report(discord: Simulator, gateway: Gateway, receiver: Receiver, done: Counter[str]) -> int:
    missing = receiver.missing(discord)
    received = sum(len(numbers) for numbers in receiver.received.values())
    repeated = sum(numbers.total() for numbers in receiver.received.values()) - received
    for name, count in sorted(done.items()):
        print(f"{count:6}  {name}")
    print(f"{done.total():6}  faults in all, over {discord.connections} connections")
    print(f"{len(discord.identifies):6}  identifies, {len(discord.resumes)} resumes")
    broken = discord.violations
    print(
        f"chaos: {discord.sent} sent, {received} received, {repeated} repeated, {receiver.out_of_order} out of order, "
        f"{missing.lost} lost, {missing.unrecoverable} unrecoverable, {missing.never_known} of sessions never known, "
        f"{len(broken)} rules broken"
    )
    for session in missing.details:
        print(f"lost: {session}", file=sys.stderr)
    for rule, count in Counter(broken).items():
        print(f"rule broken: {rule}, {count} times", file=sys.stderr)
    return 1 if missing.lost or broken or receiver.out_of_order else 0


if __name__ == "__main__":
    sys.exit(main())
