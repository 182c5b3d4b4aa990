"""``crux-sync listen``: events as JSON lines on stdout, what the shards do on stderr."""

import argparse
import json
import sys
import threading
import time
import warnings

from ..errors import CruxWarning, GatewayClosed
from ..events import Event
from ..intents import SHARD_EVENTS, Intents
from ..signals import Interrupted, closing_signals
from .options import Commands, add_connection_options, count, create_gateway, event_names, intents, positive


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("listen", help="print events as JSON lines")
    add_connection_options(parser)
    parser.add_argument("--events", type=event_names, default=[], metavar="NAMES", help="only these, joined by commas")
    parser.add_argument(
        "--intents", type=intents, default=Intents.default(), help="default, all, none, a number, or names"
    )
    parser.add_argument("--count", type=count, help="stop after so many events")
    parser.add_argument("--seconds", type=positive, help="stop after this time")
    parser.add_argument("--json", action="store_true", help="JSON lines, also on a terminal (they are the default)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    warnings.simplefilter("ignore", CruxWarning)  # told below, in one line each
    gateway = create_gateway(options, intents=options.intents)
    with warnings.catch_warnings(record=True) as advice:
        warnings.simplefilter("always", CruxWarning)
        events = gateway.subscribe(*options.events)
    for one in advice:
        say(str(one.message))
    status = gateway.subscribe(*SHARD_EVENTS)
    deadline = None if options.seconds is None else time.monotonic() + options.seconds
    with closing_signals() as interrupted:
        try:
            gateway.start()
            events.ends_on_failure = status.ends_on_failure = True
            threading.Thread(target=tell, args=(status,), daemon=True).start()
            printed = 0
            while options.count is None or printed < options.count:
                remaining = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                event = events.get(remaining)
                if event.sequence is not None:
                    print_event(event)
                    printed += 1
        except (TimeoutError, GatewayClosed, Interrupted):
            pass
        finally:
            gateway.close(timeout=1.5 if interrupted() else 10.0)
    return 0


def print_event(event: Event) -> None:
    """One line; ``d`` is passed on as it came."""
    head = json.dumps({"shard": event.shard_id, "t": event.type, "s": event.sequence}, separators=(",", ":"))
    sys.stdout.write(f'{head[:-1]},"d":{event.raw.decode("utf-8", "replace")}}}\n')
    sys.stdout.flush()


def tell(status: "object") -> None:
    """Shard life on stderr, until the gateway closes."""
    try:
        for event in status:  # type: ignore[attr-defined]
            details = ", ".join(f"{key} {value}" for key, value in event.data.items())
            say(f"shard {event.shard_id}: {event.type.removeprefix('SHARD_').lower()} ({details})")
    except Exception as error:  # the main thread raises it
        say(str(error))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
