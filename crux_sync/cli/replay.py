"""``crux-sync replay``: a recording, played by an offline Discord to whoever connects with the token ``test``."""

import argparse
import sys
import time
from typing import TYPE_CHECKING

from ..signals import Interrupted, closing_signals
from .authority import announced_authority
from .options import Commands, positive

if TYPE_CHECKING:
    from ..simulator import Replay, Simulator

#: How often is looked whether the recording is through and the clients have gone, seconds.
LOOK_EVERY = 0.2


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("replay", help="play a recording of `listen --record` to the clients that connect")
    parser.add_argument("file", metavar="FILE", help="a recording, or JSON lines of `listen`")
    parser.add_argument(
        "--speed", type=speed, default=1.0, metavar="N", help="so many times as fast; 0 or max: without a pause"
    )
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--tls", action="store_true", help="wss and https; prints the authority's PEM file second")
    parser.add_argument("--hang-up", action="store_true", help="close the connections when it is through")
    parser.add_argument("--seconds", type=positive, help="stop after this time")
    parser.set_defaults(run=run)


def speed(text: str) -> float:
    """``max`` is 0: without a pause."""
    value = 0.0 if text == "max" else float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be 0, max, or more")
    return value


def run(options: argparse.Namespace) -> int:
    from ..simulator import Simulator

    with closing_signals(), Simulator(tls=options.tls, host=options.host, port=options.port) as discord:
        replay = discord.replay(options.file, options.speed)
        try:
            print(discord.api_url, flush=True)
            with announced_authority(discord):
                shards = discord.settings.shards
                wanted = "the shard is" if shards == 1 else f"all {shards} shards are"
                say(f"token: test, gateway: {discord.url}; begins when {wanted} ready")
                serve(discord, replay, hang_up=options.hang_up, seconds=options.seconds)
        except Interrupted:
            pass
        replay.stop()
    say(f"replayed {replay.sent} events")
    for rule in discord.violations:
        say(f"rule broken: {rule}")
    return 0


def serve(discord: "Simulator", replay: "Replay", *, hang_up: bool, seconds: float | None) -> None:
    """Until the recording is through and the clients have left, or were hung up on; or until ``seconds`` are over."""
    deadline = None if seconds is None else time.monotonic() + seconds

    def over() -> bool:
        return replay.done and (hang_up or not discord.peers)

    while not over() and (deadline is None or time.monotonic() < deadline):
        discord.wait_for(over, LOOK_EVERY)
    replay.wait(0)  # raises what ended it early
    discord.hang_up()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
