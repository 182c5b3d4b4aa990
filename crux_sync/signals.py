"""Ctrl-C and SIGTERM, for as long as ``run`` blocks and no longer."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM during ``run``."""


@contextmanager
def closing_signals() -> Iterator[Callable[[], str | None]]:
    """On the main thread: SIGINT and SIGTERM raise Interrupted, once; afterwards the handlers are as before.

    Gives a function that says which signal came, None if none did.
    """
    received: list[str] = []

    def interrupt(number: int, frame: object) -> None:
        first = not received
        received.append(signal.Signals(number).name)
        if first:  # a second one finds us closing already
            raise Interrupted

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
