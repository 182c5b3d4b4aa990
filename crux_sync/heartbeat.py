"""The timer thread: one for all shards, a heap of deadlines. It never waits for a socket or a shard's lock."""

import heapq
import logging
import time
from itertools import count
from threading import Condition, Thread, current_thread
from typing import Protocol

logger = logging.getLogger(__name__)


class Timed(Protocol):
    """What the timer serves. ``tick`` must not block; it returns when it wants to be called again."""

    def tick(self, now: float) -> float | None: ...


class Heartbeater:
    """Calls ``tick`` of whoever is due. ``schedule`` may be called from any thread."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._heap: list[tuple[float, int, Timed]] = []
        #: The one valid entry of each: what was scheduled before is stale.
        self._due: dict[Timed, tuple[float, int]] = {}
        self._numbers = count()
        self._running = False
        self._thread: Thread | None = None
        #: The longest that a tick was late, seconds.
        self.worst_delay = 0.0

    def start(self) -> None:
        self._running = True
        self._thread = Thread(target=self._run, name="crux-heartbeat", daemon=True)
        self._thread.start()

    def schedule(self, timed: Timed, when: float | None) -> None:
        """Tick ``timed`` at ``when`` (monotonic seconds) instead of at the time it has; None: not at all."""
        with self._condition:
            if when is None:
                self._due.pop(timed, None)
                return
            known = self._due.get(timed)
            if known is not None and known[0] == when:
                return
            self._push(timed, when)
            if self._heap[0][2] is timed:
                self._condition.notify()

    def close(self, timeout: float | None = None) -> None:
        with self._condition:
            self._running = False
            self._heap.clear()
            self._due.clear()
            self._condition.notify()
        if self._thread is not None and self._thread is not current_thread():
            self._thread.join(timeout)

    def _push(self, timed: Timed, when: float) -> None:
        number = next(self._numbers)
        self._due[timed] = (when, number)
        heapq.heappush(self._heap, (when, number, timed))

    def _run(self) -> None:
        while True:
            with self._condition:
                timed = self._next_due()
                if timed is None:
                    return
            again = self._tick(timed)
            if again is not None:
                with self._condition:
                    if self._running and timed not in self._due:  # else: scheduled anew in the meantime
                        self._push(timed, again)

    def _next_due(self) -> Timed | None:
        """Wait for the first deadline, holding the condition. None: closed."""
        while self._running:
            if not self._heap:
                self._condition.wait()
                continue
            when, number, timed = self._heap[0]
            if self._due.get(timed) != (when, number):
                heapq.heappop(self._heap)
                continue
            delay = when - time.monotonic()
            if delay <= 0:
                self.worst_delay = max(self.worst_delay, -delay)
                heapq.heappop(self._heap)
                del self._due[timed]
                return timed
            self._condition.wait(delay)
        return None

    def _tick(self, timed: Timed) -> float | None:
        try:
            return timed.tick(time.monotonic())
        except Exception:  # one shard's fault must not stop the beats of all others
            logger.exception("tick failed", extra={"shard": getattr(timed, "id", None)})
            return time.monotonic() + 1.0
