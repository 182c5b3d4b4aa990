"""Waiting for one event: an observer on the shards' side, a simple queue, the check in the waiting thread."""

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from .dispatch import Hub
from .events import Event
from .subscription import overcommit

#: How often a wait inside a consumer looks whether that consumer's queue has reached its byte bound, seconds.
LOOK_EVERY = 0.25


class Waiter:
    """Sees every event of the given names from now on, in one thread's ``wait``."""

    def __init__(self, names: frozenset[str] | None, hub: Hub) -> None:
        self.names = names
        self._hub = hub
        self._seen: SimpleQueue[Event | BaseException] = SimpleQueue()
        hub.observe(self)

    def observe(self, event: Event) -> None:
        self._seen.put(event)

    def fail(self, error: BaseException) -> None:
        """End the wait with ``error``."""
        self._seen.put(error)

    def wait(
        self,
        check: Callable[[Event], object] | None,
        timeout: float | None,
        decoder: "msgspec.json.Decoder[Any] | None" = None,
    ) -> Event:
        """The first event that passes ``check``. Raises TimeoutError, or what ``fail`` was given."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with overcommit() as own_queue:
            while True:
                event = self._next(deadline, own_queue)
                if event is None:
                    names = ", ".join(sorted(self.names)) if self.names else "event"
                    raise TimeoutError(f"no matching {names} within {timeout:g} s")
                if isinstance(event, BaseException):
                    raise event
                if decoder is not None:
                    event = event.typed(decoder)
                if check is None or check(event):
                    return event

    def _next(self, deadline: float | None, own_queue: overcommit) -> "Event | BaseException | None":
        while True:
            remaining = LOOK_EVERY if deadline is None else min(deadline - time.monotonic(), LOOK_EVERY)
            try:
                return self._seen.get(timeout=max(remaining, 0))
            except Empty:
                own_queue.check()
                if deadline is not None and time.monotonic() >= deadline:
                    return None

    def close(self) -> None:
        self._hub.unobserve(self)
