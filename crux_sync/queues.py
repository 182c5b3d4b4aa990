"""The queue between shards and one consumer: a real ``queue.Queue`` where a batch costs one lock."""

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, Final

from .events import Event


class Closed:
    """The type of ``CLOSED``."""

    def __repr__(self) -> str:
        return "<crux_sync.CLOSED>"

    def __bool__(self) -> bool:
        return False


#: What ``subscription.queue.get()`` returns, again and again, once the subscription is closed and drained. Falsy.
CLOSED: Final = Closed()

#: Bound on the JSON waiting in one queue, bytes.
MAX_BYTES = 64 * 1024 * 1024


class EventQueue(queue.Queue[Any]):
    """Events for one consumer, bounded by count and by bytes; whichever comes first.

    Any thread may use the methods of ``queue.Queue`` that take events out: ``get``, ``get_nowait``, ``qsize``,
    ``task_done``, ``join``. Shards put them in with ``offer``.
    """

    queue: "deque[Event]"

    def __init__(self, maxsize: int, on_room: Callable[[], None], max_bytes: int = MAX_BYTES) -> None:
        super().__init__(maxsize)
        self.max_bytes = max_bytes
        self.bytes = 0
        self.closed = False
        #: What is queued is not to be handled any more; whoever works on a batch stops after the event in hand.
        self.abandoned = False
        #: Consumers of this queue that wait for an event: while they do, only the byte bound holds.
        self.overcommitted = 0
        #: Called, with the queue's lock held, when an event has been taken out.
        self._on_room = on_room
        #: Events taken but not handled yet, by the thread that took them. None: nobody asks.
        self.taken: dict[int, deque[Event]] | None = None

    # ---------------------------------------------------------------- shards

    @property
    def room(self) -> int:
        """How many more events fit. Reads without the lock: exact for whoever fills, a hint for others."""
        if self.bytes >= self.max_bytes or self.closed:
            return 0
        waiting = len(self.queue)
        if self.overcommitted or self.maxsize <= 0:
            return 1 << 30
        return max(self.maxsize - waiting, 0)

    @property
    def has_space(self) -> bool:
        """Enough room for a blocked shard to go on: a quarter, so that it does not wake for each event."""
        return self.closed or self.room >= max(self.maxsize // 4, 1)

    def offer(self, events: Sequence[Event]) -> int:
        """Put in as many as fit, in order, under one lock; how many. A closed queue takes all, and drops them."""
        with self.mutex:
            if self.closed:
                return len(events)
            taken = min(len(events), self.room)
            if taken:
                self._append(events if taken == len(events) else events[:taken])
            return taken

    def offer_dropping_oldest(self, events: Sequence[Event]) -> int:
        """Put in all, making room by dropping the oldest; how many were dropped."""
        with self.mutex:
            if self.closed:
                return 0
            self._append(events)
            dropped = 0
            while self.queue and (len(self.queue) > self.maxsize > 0 or self.bytes > self.max_bytes):
                self.bytes -= self.queue.popleft().size
                dropped += 1
            self._finish(dropped)
            return dropped

    def _append(self, events: Sequence[Event]) -> None:
        self.queue.extend(events)
        self.bytes += sum([event.size for event in events])
        self.unfinished_tasks += len(events)
        self.not_empty.notify(len(events))

    # ---------------------------------------------------------------- consumers

    def take(self, most: int, timeout: float | None = None, *, block: bool = True) -> list[Event]:
        """Up to ``most`` events, waiting for the first. Empty: closed and drained, or none within the time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.not_empty:
            while not self.queue or self.abandoned:
                if self.closed or not block:
                    return []
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return []
                self.not_empty.wait(remaining)
            waiting = self.queue
            if len(waiting) <= most:
                events = list(waiting)
                waiting.clear()
            else:
                events = [waiting.popleft() for _ in range(most)]
            self.bytes -= sum([event.size for event in events])
            if self.taken is not None:
                self.taken.setdefault(get_ident(), deque()).extend(events)
            self.make_room()
            return events

    def make_room(self) -> None:
        """Tell whoever fills this queue to look again. The lock is held."""
        self._on_room()

    def finish(self, count: int) -> None:
        """``task_done`` for ``count`` events at once."""
        with self.all_tasks_done:
            self._finish(count)

    def _finish(self, count: int) -> None:
        self.unfinished_tasks = max(self.unfinished_tasks - count, 0)
        if not self.unfinished_tasks:
            self.all_tasks_done.notify_all()

    def task_done(self) -> None:
        """As in ``queue.Queue``, but calling it for ``CLOSED`` is no error."""
        with self.all_tasks_done:
            self._finish(1)
            if self.taken:
                # A pool's threads finish out of order: the oldest that this thread took, else the oldest of any.
                mine = self.taken.get(get_ident()) or next((one for one in self.taken.values() if one), None)
                if mine:
                    mine.popleft()

    def settle(self, event: Event) -> None:
        """``event`` is handled, whichever thread took it."""
        with self.all_tasks_done:
            self._finish(1)
            for events in (self.taken or {}).values():
                for index, one in enumerate(events):
                    if one is event:
                        del events[index]
                        return

    def finish_taken(self) -> None:
        """The current thread is done with every event it took."""
        if self.taken is not None:
            with self.all_tasks_done:
                self._finish(len(self.taken.pop(get_ident(), ())))

    def unhandled(self) -> list[Event]:
        """Events queued, or taken and not handled, oldest first within each shard."""
        with self.mutex:
            taken = [event for events in (self.taken or {}).values() for event in events]
            return [*taken, *self.queue]

    def close(self, *, abandon: bool = False) -> None:
        """No more events. What is there can still be taken, unless ``abandon``: then it stays, unhandled."""
        with self.mutex:
            self.closed = True
            self.abandoned = self.abandoned or abandon
            if self.abandoned:
                self.unfinished_tasks = 0
                self.all_tasks_done.notify_all()
            self.not_empty.notify_all()
            self.make_room()

    def track(self) -> None:
        """From now on remember what was taken until it is handled."""
        with self.mutex:
            if self.taken is None:
                self.taken = {}

    def qsize(self) -> int:
        """Events waiting, ``CLOSED`` not counted."""
        return len(self.queue)

    # What queue.Queue itself calls, with the lock held. A closed, empty queue always has CLOSED to give.

    def _qsize(self) -> int:
        return (0 if self.abandoned else len(self.queue)) or (1 if self.closed else 0)

    def _get(self) -> Any:
        if not self.queue or self.abandoned:
            return CLOSED
        event = self.queue.popleft()
        self.bytes -= event.size
        if self.taken is not None:
            self.taken.setdefault(get_ident(), deque()).append(event)
        self.make_room()
        return event
