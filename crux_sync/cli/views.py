"""Where ``listen`` shows events and the life of shards: lines of JSON, columns, or a live table."""

import argparse
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from typing import Any, Self

from ..events import Event
from ..gateway import Gateway
from ..recording import event_line
from ..subscription import Subscription
from .progress import Bar, Startup

#: Seconds between two of the lines that stand for the table where there is no terminal.
STATUS_PERIOD = 10.0


def json_line(event: Event) -> None:
    """One line; ``d`` is passed on as it came."""
    sys.stdout.write(event_line(event).decode("utf-8", "replace") + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Tell of shards, and of anything else that is no event."""
    sys.stderr.write(f"{text}\n")  # in one piece: on a terminal stdout may write at the same moment
    sys.stderr.flush()


class View:
    """Chooses how to show things: colours need a terminal and rich, and without them all is as in a pipe."""

    def __init__(self, options: argparse.Namespace, gateway: Gateway, events: Subscription) -> None:
        self._gateway = gateway
        self._startup = Startup(gateway)
        self._stack = ExitStack()
        # What another thread says while a bar goes away would draw the bar again, for good.
        self._saying = threading.Lock()
        self._live: Any = None
        self._status = options.status
        console = terminal_console()
        if options.status and console is None and not sys.stderr.isatty():
            raise ValueError("--status needs a terminal: neither stdout nor stderr is one")
        #: Shows one event.
        self.show: Callable[[Event], None] = self._choose(options, console)
        if options.status:
            self._live = self._table(events, console or error_console())
        elif console is not None or sys.stderr.isatty():
            self._live = self._bar(console or error_console())

    def _choose(self, options: argparse.Namespace, console: Any) -> Callable[[Event], None]:
        if options.json:
            return json_line
        if options.pretty:
            return self._columns(console or plain_console(), pretty_too=True)
        if console is None:
            return json_line
        # Events between the rows of a table could not be read.
        return (lambda event: None) if options.status else self._columns(console, pretty_too=False)

    def _columns(self, console: Any, *, pretty_too: bool) -> Callable[[Event], None]:
        from .lines import columns, pretty

        def show(event: Event) -> None:
            width = len(str((self._gateway.shard_count or 1) - 1))
            line = columns(event, datetime.now(), width)
            if not console.is_terminal:
                console.print(line, soft_wrap=True)
            else:
                console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
            if pretty_too:
                console.print(pretty(event), soft_wrap=True)
            console.file.flush()

        return show

    def _table(self, events: Subscription, console: Any) -> Any:
        from rich.live import Live

        from .status import FRAMES, StatusTable

        table = StatusTable(self._gateway, events, self._startup)
        # What is in a pipe must not be drawn on the terminal.
        return Live(table, console=console, refresh_per_second=FRAMES, redirect_stdout=sys.stdout.isatty())

    def _bar(self, console: Any) -> Any:
        if console is None:
            return None
        from rich.live import Live

        return Live(Bar(self._startup), console=console, transient=True, redirect_stdout=sys.stdout.isatty())

    def __enter__(self) -> Self:
        """Begin to draw, once the shards are there: a bar for one shard would be gone before it is seen."""
        if self._live is not None and (self._status or len(self._gateway.shards) > 1):
            self._stack.enter_context(self._live)
        else:
            self._live = None
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop_drawing()

    def say(self, text: str) -> None:
        """Tell of shards, above what is drawn. From any thread."""
        with self._saying:
            say(text)

    def _stop_drawing(self) -> None:
        with self._saying:
            self._stack.close()
            self._live = None

    @property
    def drawing(self) -> bool:
        """Whether a bar or a table says already what shards do."""
        return self._live is not None

    def look(self) -> None:
        """Now and then: a bar that is full goes away."""
        if self._live is None or self._status:
            return
        ready, total, _ = self._startup.look()
        if ready == total:
            self._stop_drawing()


def terminal_console() -> Any:
    """rich's console on stdout; None: no terminal, or no rich."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False)


def error_console() -> Any:
    """The same on stderr."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(stderr=True, highlight=False)


def plain_console() -> Any:
    """For ``--pretty`` in a pipe: no colours, no width."""
    try:
        from rich.console import Console
    except ImportError as error:
        raise ImportError("--pretty needs rich: pip install 'crux_sync[cli]'") from error
    return Console(highlight=False, color_system=None)
