"""What waits to be sent on one shard: in order, within the budget of the connection, once the session is there."""

import time
from collections import deque
from threading import Condition

from .connection import Connection
from .errors import CommandTimeout, CruxError, GatewayClosed
from .limits import PRESENCE_PERIOD, PRESENCES, SendBudget, SlidingWindow


class Waiting:
    """A command in the queue. ``data`` of a presence may be replaced by a later one while it waits."""

    __slots__ = ("broken", "data", "is_presence", "sent")

    def __init__(self, data: bytes, is_presence: bool) -> None:
        self.data = data
        self.is_presence = is_presence
        self.sent = False
        self.broken = False


class Outbox:
    """Commands of one shard. Callers wait in their own thread, outside every lock that a heartbeat needs."""

    def __init__(self, shard_id: int) -> None:
        self._shard_id = shard_id
        self._condition = Condition()
        self._queue: deque[Waiting] = deque()
        #: The connection whose session is established, and what may be sent on it. None: commands wait.
        self._connection: Connection | None = None
        self._budget: SendBudget | None = None
        #: Of the shard, not of the connection: Discord counts presences for the client.
        self._presences = SlidingWindow(PRESENCES, PRESENCE_PERIOD)
        self._closed = False
        #: Commands written so far.
        self.sent = 0

    # ---------------------------------------------------------------- the shard

    def open(self, connection: Connection, budget: SendBudget) -> None:
        """READY or RESUMED: commands may go."""
        with self._condition:
            self._connection, self._budget = connection, budget
            self._condition.notify_all()

    def hold(self) -> None:
        """The connection is over: commands wait for the next session."""
        with self._condition:
            self._connection = self._budget = None
            self._condition.notify_all()

    def close(self) -> None:
        """The shard ends: nobody waits any longer."""
        with self._condition:
            self._connection = self._budget = None
            self._closed = True
            self._condition.notify_all()

    # ---------------------------------------------------------------- callers

    def send(self, data: bytes, timeout: float | None) -> None:
        """Send when it is this command's turn. Raises CommandTimeout, GatewayClosed, CruxError (see ``_write``)."""
        with self._condition:
            waiting = Waiting(data, False)
            self._queue.append(waiting)
        self._wait_and_write(waiting, timeout)

    def send_presence(self, data: bytes, timeout: float | None) -> None:
        """As ``send``; while one presence waits, a later one takes its place, and both callers wait for that."""
        with self._condition:
            waiting = next((one for one in self._queue if one.is_presence), None)
            if waiting is not None:
                waiting.data = data
                self._wait_until(lambda: waiting.sent or waiting not in self._queue, timeout)
                if waiting.sent:
                    return
            waiting = Waiting(data, True)
            self._queue.append(waiting)
        self._wait_and_write(waiting, timeout)

    def _wait_until(self, predicate: "object", timeout: float | None) -> None:
        if not self._condition.wait_for(lambda: self._closed or predicate(), timeout):  # type: ignore[operator]
            raise CommandTimeout(f"shard {self._shard_id}: not sent within {timeout:g} s")

    def _wait_and_write(self, waiting: Waiting, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with self._condition:
                connection, data = self._turn(waiting, deadline)
            # Still the first of the queue, so the order holds; and no lock is held that others wait for.
            self._write(waiting, connection, data)
        finally:
            with self._condition:
                self._queue.remove(waiting)
                self._condition.notify_all()

    def _turn(self, waiting: Waiting, deadline: float | None) -> tuple[Connection, bytes]:
        """Wait until ``waiting`` is first, the session is there and the budget allows it."""
        while True:
            if self._closed:
                raise GatewayClosed(f"shard {self._shard_id} is stopped")
            now = time.monotonic()
            delay = self._delay(waiting, now)
            if delay == 0.0:
                assert self._connection is not None
                assert self._budget is not None
                self._budget.record_command(now)
                if waiting.is_presence:
                    self._presences.record(now)
                waiting.sent = True
                return self._connection, waiting.data
            remaining = None if deadline is None else deadline - now
            if remaining is not None and remaining <= 0:
                why = "there was no session" if self._connection is None else "the send limit was reached"
                raise CommandTimeout(f"shard {self._shard_id}: not sent within its time-out, because {why}")
            self._condition.wait(min([one for one in (delay, remaining) if one is not None], default=None))

    def _delay(self, waiting: Waiting, now: float) -> float | None:
        """Seconds until ``waiting`` may go; None: something else must happen first."""
        if self._connection is None or self._budget is None:
            return None
        held_up = self._presences.delay(now)
        # A presence that its own limit holds up lets others pass.
        first = next((one for one in self._queue if not (one.is_presence and held_up)), None)
        if first is not waiting:
            return held_up if waiting.is_presence and held_up else None
        return max(self._budget.delay(now), held_up if waiting.is_presence else 0.0)

    def _write(self, waiting: Waiting, connection: Connection, data: bytes) -> None:
        if not connection.send(data):
            raise CruxError(
                f"shard {self._shard_id}: the connection broke while the command was written; it is not repeated, "
                "because it may have arrived"
            )
        self.sent += 1
