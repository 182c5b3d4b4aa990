"""One consumer's place in the delivery: what it wants, its queue, and what happens when that is full."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Self

import msgspec

from .errors import CruxError, GatewayClosed
from .events import UNREADABLE, Event
from .queues import CLOSED, EventQueue

logger = logging.getLogger(__name__)

OVERFLOWS = ("block", "drop_oldest", "drop_newest")

#: Drops are logged at most once in this many seconds for each subscription.
DROP_LOG_PERIOD = 60.0

#: The queues whose events the current thread is handling: if it waits, they may grow (see ``overcommit``).
handling = threading.local()


class Subscription:
    """Events for one consumer: iterate, ``get``, ``get_many``, or read ``queue`` as any ``queue.Queue``.

    Made by ``gateway.subscribe``. Any thread may call any method; several threads may share one subscription, each
    event then goes to one of them. ``close`` (or leaving a ``with`` block) ends it: nothing new arrives, what is
    queued can still be taken, iterators end. An event counts as handled when the next one is asked for, when
    the subscription closes, or at ``queue.task_done()`` for those taken from ``queue``.
    """

    def __init__(
        self,
        names: frozenset[str] | None = None,
        *,
        selector: Callable[[Event], object] | None = None,
        maxsize: int = 10_000,
        overflow: str = "block",
        partition: Hashable | None = None,
        decoder: "msgspec.json.Decoder[Any] | None" = None,
        on_room: Callable[[], None] = lambda: None,
        on_close: Callable[["Subscription"], None] = lambda subscription: None,
        report: Callable[[BaseException, Event | None, Any], None] | None = None,
        label: str = "subscription",
    ) -> None:
        self.names = names
        self.selector = selector
        self.overflow = overflow
        self.partition = partition
        self.label = label
        #: A real ``queue.Queue``. ``get`` returns ``CLOSED`` once the subscription is closed and drained.
        self.queue = EventQueue(maxsize, on_room)
        #: Events that got into the queue, and events that the overflow policy dropped.
        self.delivered = self.dropped = 0
        #: Dealt by the batch in hand, not queued yet.
        self.promised = 0
        #: Raised instead of ending quietly: the fatal error of a shard.
        self.failure: BaseException | None = None
        #: The gateway's own iterators end with the first fatal error.
        self.ends_on_failure = False
        self._decoder = decoder
        self._on_close = on_close
        self._report = report
        self._dropped_logged = (0, 0.0)

    # ---------------------------------------------------------------- consumer

    def get(self, timeout: float | None = None) -> Event:
        """The next event. Raises TimeoutError after ``timeout`` seconds, GatewayClosed when there will be none."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            remaining = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            events = self._take(1, remaining)
            if not events:
                raise TimeoutError(f"no event within {timeout:g} s")
            for event in self._typed(events):
                return event

    def get_many(self, max: int = 1000, timeout: float | None = None) -> list[Event]:
        """Up to ``max`` events, as soon as there is one; empty after ``timeout`` seconds. Raises GatewayClosed.

        One lock for all of them: the quick way to read much.
        """
        return self._typed(self._take(max, timeout))

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        try:
            return self.get()
        except GatewayClosed:
            raise StopIteration from None

    def close(self) -> None:
        """Leave. No error when closed already. What this thread has taken counts as handled."""
        self.queue.finish_taken()
        self._on_close(self)
        self.queue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Events in the queue."""
        return self.queue.qsize()

    def waiting_by_shard(self) -> Counter[int]:
        """Events in the queue, by shard id. It copies the queue: for a look now and then."""
        with self.queue.mutex:
            events = list(self.queue.queue)
        return Counter(event.shard_id for event in events)

    @property
    def closed(self) -> bool:
        """Whether it has ended; what is queued can still be taken."""
        return self.queue.closed

    def __repr__(self) -> str:
        wants = "every event" if self.names is None else ", ".join(sorted(self.names)) or "nothing"
        state = ", closed" if self.closed else ""
        counts = f"{self.waiting} waiting, {self.delivered} delivered, {self.dropped} dropped"
        return f"<Subscription to {wants}: {counts}{state}>"

    def _take(self, most: int, timeout: float | None) -> list[Event]:
        self.queue.finish_taken()
        events = self.queue.take(most, timeout)
        handling.queue = self.queue
        if not events and self.queue.closed:
            if self.failure is not None:
                raise self.failure
            raise GatewayClosed("the subscription is closed")
        return events

    def _typed(self, events: list[Event]) -> list[Event]:
        """Decode into the type asked for; what does not fit is reported and left out."""
        if self._decoder is None:
            return events
        typed = []
        for event in events:
            try:
                typed.append(event.typed(self._decoder))
            except UNREADABLE as error:
                if self._report is None:
                    raise
                self._report(error, event, self)
        return typed

    # ---------------------------------------------------------------- hub

    @property
    def room(self) -> int:
        """Free places, those promised to the batch in hand not counted."""
        return self.queue.room - self.promised

    @property
    def has_space(self) -> bool:
        """Whether a shard that waits for this consumer may go on."""
        return self.overflow != "block" or self.queue.has_space

    def deliver(self, events: Sequence[Event]) -> int:
        """Queue ``events`` as the overflow policy says; how many are settled (queued or dropped)."""
        if self.overflow == "drop_oldest":
            self.delivered += len(events)
            self._count_dropped(self.queue.offer_dropping_oldest(events))
            return len(events)
        taken = self.queue.offer(events)
        self.delivered += taken
        if self.overflow == "drop_newest" and taken < len(events):
            self._count_dropped(len(events) - taken)
            return len(events)
        return taken

    def _count_dropped(self, count: int) -> None:
        if not count:
            return
        self.dropped += count
        logged, when = self._dropped_logged
        now = time.monotonic()
        if not when or now - when >= DROP_LOG_PERIOD:
            logger.warning("%s is full: %d events dropped (%s)", self.label, self.dropped - logged, self.overflow)
            self._dropped_logged = (self.dropped, now)


class overcommit:
    """While the current thread waits for an event, the queue it is handling events of may exceed its count.

    What is waited for may stand behind that full queue: without this, the two would wait for each other.
    """

    def __init__(self) -> None:
        self._queue: EventQueue | None = getattr(handling, "queue", None)

    def __enter__(self) -> Self:
        if self._queue is not None:
            with self._queue.mutex:
                self._queue.overcommitted += 1
                self._queue.make_room()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._queue is not None:
            with self._queue.mutex:
                self._queue.overcommitted -= 1

    def check(self) -> None:
        """Raise when even the byte bound is reached: then waiting on cannot help."""
        queue = self._queue
        if queue is not None and queue.bytes >= queue.max_bytes:
            raise CruxError(f"waiting inside a consumer whose queue is full ({queue.max_bytes} bytes)")


__all__ = ["CLOSED", "OVERFLOWS", "Subscription", "handling", "overcommit"]
