"""``crux-sync listen``: events on stdout, what the shards do on stderr.

In a pipe events are JSON lines, on a terminal columns; ``--record`` keeps them for ``crux-sync replay``.
"""

import argparse
import contextlib
import threading
import time
import warnings
from contextlib import ExitStack

from ..errors import CruxWarning, FatalCloseError, GatewayClosed
from ..events import Event
from ..gateway import Gateway
from ..intents import SHARD_EVENTS, Intents
from ..recording import Recorder
from ..signals import Interrupted, closing_signals
from ..subscription import Subscription
from .filters import Filter
from .options import (
    Commands,
    add_connection_options,
    count,
    create_gateway,
    event_names,
    intents,
    positive,
    snowflake,
)
from .views import View, say

#: How often is looked after a recording, and a bar, when no event comes, seconds.
IDLE = 0.5

#: Kept in every recording: they say whose the events are.
ALWAYS_RECORDED = "READY"


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("listen", help="print events; JSON lines in a pipe, columns on a terminal")
    add_connection_options(parser)
    parser.add_argument("--events", type=event_names, default=[], metavar="NAMES", help="only these, joined by commas")
    parser.add_argument(
        "--guild", type=snowflake, action="append", default=[], metavar="ID", help="only of this guild; may be repeated"
    )
    parser.add_argument(
        "--user",
        type=snowflake,
        action="append",
        default=[],
        metavar="ID",
        help="only about this one; may be repeated",
    )
    parser.add_argument(
        "--intents", type=intents, default=Intents.default(), help="default, all, none, a number, or names"
    )
    parser.add_argument("--count", type=count, help="stop after so many events")
    parser.add_argument("--seconds", type=positive, help="stop after this time")
    parser.add_argument(
        "--record", metavar="FILE", help="keep what is shown, and each READY, for `crux-sync replay FILE`"
    )
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--json", action="store_true", help="JSON lines, also on a terminal (in a pipe the default)")
    style.add_argument("--pretty", action="store_true", help="columns, and the data indented")
    parser.add_argument("--status", action="store_true", help="a live table of the shards instead of events")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    warnings.simplefilter("ignore", CruxWarning)  # told below, in one line each
    gateway = create_gateway(options, intents=options.intents)
    with warnings.catch_warnings(record=True) as advice:
        warnings.simplefilter("always", CruxWarning)
        events = gateway.subscribe(*options.events, *([ALWAYS_RECORDED] if options.events and options.record else []))
    for one in advice:
        say(str(one.message))
    life = gateway.subscribe(*SHARD_EVENTS)
    view = View(options, gateway, events)
    teller = threading.Thread(target=tell, args=(life, view), daemon=True)
    with closing_signals() as interrupted, ExitStack() as stack:
        try:
            recorder = stack.enter_context(Recorder(options.record)) if options.record else None
            deadline = None if options.seconds is None else time.monotonic() + options.seconds
            gateway.start()
            events.ends_on_failure = True
            if recorder is not None:
                recorder.begin(gateway.shard_count, int(options.intents))
            stack.enter_context(view)
            teller.start()
            Listener(options, gateway, events, view, recorder).run(deadline)
        except (GatewayClosed, Interrupted):
            pass
        finally:
            gateway.close(timeout=1.5 if interrupted() else 10.0)
            if teller.ident is not None:
                teller.join(1.0)  # its last line must not be cut off
    return 0


class Listener:
    """The main loop: take an event, filter it, keep it, show it."""

    def __init__(
        self,
        options: argparse.Namespace,
        gateway: Gateway,
        events: Subscription,
        view: View,
        recorder: Recorder | None,
    ) -> None:
        self._names = frozenset(options.events)
        self._filter = Filter(frozenset(options.guild), frozenset(options.user))
        self._count: int | None = options.count
        self._gateway = gateway
        self._events = events
        self._view = view
        self._recorder = recorder

    def run(self, deadline: float | None) -> None:
        """Until ``count`` events were shown, or ``deadline`` (monotonic seconds). Raises what ends the gateway."""
        shown = 0
        while self._count is None or shown < self._count:
            remaining = IDLE if deadline is None else min(deadline - time.monotonic(), IDLE)
            self._view.look()
            try:
                event = self._events.get(max(remaining, 0.0))
            except TimeoutError:
                if deadline is not None and time.monotonic() >= deadline:
                    return
                if self._recorder is not None:
                    self._recorder.flush()
                continue
            shown += self._take(event)
            if deadline is not None and time.monotonic() >= deadline:
                return

    def _take(self, event: Event) -> bool:
        """Whether it was shown."""
        if event.sequence is None:
            return False
        wanted = (not self._names or event.type in self._names) and self._filter.passes(event)
        if self._recorder is not None and (wanted or event.type == ALWAYS_RECORDED):
            self._recorder.add(event)
        if wanted:
            self._view.show(event)
        return wanted


def tell(life: Subscription, view: View) -> None:
    """Shard life on stderr, until the gateway closes. A failure is left to the main thread, which raises it."""
    with contextlib.suppress(FatalCloseError):
        for event in life:
            if event.type == "SHARD_FAILED" or (view.drawing and event.type != "SHARD_DISCONNECTED"):
                continue
            details = ", ".join(f"{key} {value}" for key, value in event.data.items())
            view.say(f"shard {event.shard_id}: {(event.type or '').removeprefix('SHARD_').lower()} ({details})")
