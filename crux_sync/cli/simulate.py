"""``crux-sync simulate``: the offline Discord alone. It accepts the token ``test``."""

import argparse
import sys
import threading

from ..signals import Interrupted, closing_signals
from .authority import announced_authority
from .options import Commands, count, positive


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("simulate", help="run the offline Discord; its API url is the first line of stdout")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--shards", type=count, default=1, help="that /gateway/bot recommends")
    parser.add_argument("--rate", type=positive, help="events a second (default: silence after the guilds)")
    parser.add_argument("--seed", type=int, default=1, help="of the world: the same seed, the same bytes")
    parser.add_argument("--max-concurrency", type=count, default=16, help="identify buckets")
    parser.add_argument("--members", type=count, default=12, help="of each guild")
    parser.add_argument("--tls", action="store_true", help="wss and https; prints the authority's PEM file second")
    parser.add_argument("--split", type=count, default=1, help="cut each zlib-stream payload into so many messages")
    parser.add_argument("--seconds", type=positive, help="stop after this time")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from ..simulator import Simulator

    discord = Simulator(
        shards=options.shards,
        max_concurrency=options.max_concurrency,
        tls=options.tls,
        seed=options.seed,
        host=options.host,
        port=options.port,
        members=options.members,
    )
    discord.split_messages(options.split)
    with closing_signals(), discord:
        try:
            print(discord.api_url, flush=True)
            with announced_authority(discord):
                note = "" if options.host.startswith("127.") else "; it is reachable from other machines"
                print(f"token: test, gateway: {discord.url}{note}", file=sys.stderr, flush=True)
                if options.rate:
                    discord.traffic(options.rate)
                threading.Event().wait(options.seconds)
        except Interrupted:
            pass
    for rule in discord.violations:
        print(f"rule broken: {rule}", file=sys.stderr)
    return 0
