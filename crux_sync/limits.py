"""Discord's limits: sends per connection, identifies per bucket and per day (protocol, section 8).

The budgets are pure: ``now`` is an argument, monotonic seconds. Only ``LocalIdentifyLimiter`` waits.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from threading import Condition
from threading import Event as Flag
from typing import Protocol

#: Sends of every kind on one connection, and the sliding window they are counted in, seconds (8.1).
SENDS, SEND_PERIOD = 120, 60.0

#: Presence updates: five in 20 s (8.1).
PRESENCES, PRESENCE_PERIOD = 5, 20.0

#: The all-members form of op 8: once per guild in 30 s (8.4).
ALL_MEMBERS_PERIOD = 30.0

#: One identify per bucket in 5 s (8.2).
IDENTIFY_PERIOD = 5.0

#: The server counts arrivals, we count departures: a network that holds one message back and not the next
#: brings them closer together. This much is added to each window, seconds.
GUARD = 0.05

#: The allowance is taken as renewed this much later than told: an identify a moment too soon costs the token, seconds.
RESET_GUARD = 1.0

#: A granted identify that is neither sent nor released blocks its bucket no longer than this, seconds.
PERMIT_DEADLINE = 120.0


class SlidingWindow:
    """At most ``limit`` in any ``period`` seconds."""

    def __init__(self, limit: int, period: float) -> None:
        self.limit = limit
        self.period = period
        self._times: deque[float] = deque()

    def delay(self, now: float, reserve: int = 0) -> float:
        """Seconds until one more is allowed that leaves ``reserve`` places free; 0: now."""
        self._forget(now)
        allowed = max(self.limit - reserve, 1)
        if len(self._times) < allowed:
            return 0.0
        return max(self._times[-allowed] + self.period - now, 0.0)

    def record(self, now: float) -> None:
        """One was sent."""
        self._forget(now)
        self._times.append(now)

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] + self.period <= now:
            self._times.popleft()

    def __len__(self) -> int:
        return len(self._times)


class SendBudget:
    """What one connection may send. Heartbeats, identify and resume are counted and never held up.

    Commands leave room for the heartbeats that fall into a window, one that the server asks for, and a little more.
    """

    def __init__(self, heartbeat_interval: float) -> None:
        self._window = SlidingWindow(SENDS, SEND_PERIOD + GUARD)
        #: Not yet counted in the window. Appending to a deque is atomic.
        self._priority: deque[float] = deque()
        self._commands = SlidingWindow(self.commands_per_period(heartbeat_interval), SEND_PERIOD + GUARD)

    @staticmethod
    def commands_per_period(heartbeat_interval: float) -> int:
        """Commands in one window beside the identify, the heartbeats and two that the server asks for."""
        beats = math.ceil((SEND_PERIOD + GUARD) / heartbeat_interval) + 1
        return max(SENDS - beats - 3, 1)

    def delay(self, now: float) -> float:
        """Seconds until a command may be sent; 0: now. Call it, and ``record_command``, under a lock of your own."""
        while self._priority:
            self._window.record(self._priority.popleft())
        return max(self._commands.delay(now), self._window.delay(now))

    def record_command(self, now: float) -> None:
        self._commands.record(now)
        self._window.record(now)

    def record_priority(self, now: float) -> None:
        """A heartbeat, identify or resume was sent. From any thread, without a lock: a beat waits for nobody."""
        self._priority.append(now)


class IdentifyLedger:
    """The daily allowance of identifies (8.3). Spending it all resets the token, so it is never spent.

    Free while more than half of what was left is left; beyond that, identifies are spaced over the time to the reset.
    ``planned``: that many at the start are always free; whoever starts has checked that they are granted.
    """

    def __init__(self, total: int, remaining: int, reset_after: float, now: float, *, planned: int = 0) -> None:
        self.total = total
        self._planned = min(planned, remaining)
        self.renew(remaining, reset_after, now)

    def renew(self, remaining: int, reset_after: float, now: float) -> None:
        """What ``/gateway/bot`` says at ``now``; ``reset_after`` in seconds, 0 when no window runs."""
        self.remaining = remaining
        self._granted = remaining
        self._resets = now + (reset_after + RESET_GUARD if reset_after else 86_400.0)
        self._last = -math.inf

    def delay(self, now: float) -> float:
        """Seconds until the next identify is allowed; 0: now."""
        self._turn_over(now)
        if self._planned > 0:
            return 0.0
        if self.remaining > self._granted / 2 and self.remaining > 1:
            return 0.0
        left = self._resets - now
        if self.remaining <= 1:
            return left
        # The last one is never spent: the gap leaves it over when the window ends.
        return max(self._last + left / (self.remaining - 1) - now, 0.0)

    def record(self, now: float) -> None:
        """An identify is granted: counted now, so that two which are granted together cannot both be the last."""
        self._turn_over(now)
        self.remaining = max(self.remaining - 1, 0)
        self._planned = max(self._planned - 1, 0)
        self._last = now

    def give_back(self) -> None:
        """A granted identify was not sent after all."""
        self.remaining = min(self.remaining + 1, self.total)

    def _turn_over(self, now: float) -> None:
        if now >= self._resets:
            self.renew(self.total, 86_400.0, now)


class IdentifyTicket(Protocol):
    """A place in the queue for an identify."""

    def wait(self, cancelled: Flag, timeout: float | None = None) -> bool:
        """Block until the identify may be sent. False: cancelled, or ``timeout`` seconds are over."""

    def sent(self) -> None:
        """The Identify has just been sent."""

    def release(self) -> None:
        """Done: READY, a failure, or given up. Idempotent."""

    def cancel(self) -> None:
        """Wake ``wait``: its flag was set."""


class IdentifyLimiter(Protocol):
    """Decides when a shard may identify. The seam for limiters shared by several processes."""

    def enqueue(self, shard_id: int) -> IdentifyTicket:
        """Take a place. Never blocks; called in shard order at the start."""


class LocalIdentifyLimiter:
    """Identify buckets of one process: ``shard_id % max_concurrency``, one identify in 5 s each, in order of asking."""

    def __init__(
        self,
        max_concurrency: int = 1,
        *,
        ledger: IdentifyLedger | None = None,
        clock: Callable[[], float] = time.monotonic,
        period: float = IDENTIFY_PERIOD,
    ) -> None:
        self.max_concurrency = max_concurrency
        self.ledger = ledger
        self._clock = clock
        self._period = period
        self._condition = Condition()
        self._queues: dict[int, deque[LocalTicket]] = {}
        self._free_at: dict[int, float] = {}
        self._identifies = 0

    def enqueue(self, shard_id: int) -> "LocalTicket":
        ticket = LocalTicket(self, shard_id % self.max_concurrency)
        with self._condition:
            self._queues.setdefault(ticket.bucket, deque()).append(ticket)
        return ticket

    @property
    def identifies(self) -> int:
        """Identifies sent so far."""
        return self._identifies

    # The rest is for tickets, and called with the condition held unless said.

    def _delay(self, ticket: "LocalTicket", now: float) -> float | None:
        """Seconds until ``ticket`` may go; None: others are before it."""
        queue = self._queues[ticket.bucket]
        while queue and queue[0] is not ticket and queue[0].expired(now):
            queue.popleft().expire()
        if not queue or queue[0] is not ticket:
            return None
        delay = self._free_at.get(ticket.bucket, now) - now
        if self.ledger is not None:
            delay = max(delay, self.ledger.delay(now))
        return max(delay, 0.0)

    def _sent(self, ticket: "LocalTicket") -> None:
        self._free_at[ticket.bucket] = self._clock() + self._period + GUARD
        self._identifies += 1


class LocalTicket:
    """One place in a LocalIdentifyLimiter. Used by one thread, ``cancel`` by any."""

    def __init__(self, limiter: LocalIdentifyLimiter, bucket: int) -> None:
        self.bucket = bucket
        self._limiter = limiter
        self._granted_at: float | None = None
        self._released = False
        self._sent = False

    def wait(self, cancelled: Flag, timeout: float | None = None) -> bool:
        limiter = self._limiter
        with limiter._condition:
            deadline = None if timeout is None else limiter._clock() + timeout
            while not cancelled.is_set() and not self._released:
                now = limiter._clock()
                delay = limiter._delay(self, now)
                if delay == 0.0:
                    self._granted_at = now
                    if limiter.ledger is not None:
                        limiter.ledger.record(now)
                    return True
                remaining = None if deadline is None else deadline - now
                if remaining is not None and remaining <= 0:
                    return False
                waits = [one for one in (delay, remaining, self._others_deadline(now)) if one is not None]
                limiter._condition.wait(min(waits, default=None))
        return False

    def _others_deadline(self, now: float) -> float | None:
        """When the holder of this bucket loses its permit, if it never gives it back."""
        queue = self._limiter._queues[self.bucket]
        holder = queue[0] if queue else None
        if holder is None or holder is self or holder._granted_at is None:
            return None
        return max(holder._granted_at + PERMIT_DEADLINE - now, 0.001)

    def expired(self, now: float) -> bool:
        return self._granted_at is not None and now - self._granted_at >= PERMIT_DEADLINE

    def expire(self) -> None:
        self._released = True

    def sent(self) -> None:
        with self._limiter._condition:
            self._sent = True
            self._limiter._sent(self)

    def release(self) -> None:
        with self._limiter._condition:
            if not self._released:
                self._released = True
                self._limiter._queues[self.bucket].remove(self)
                if self._granted_at is not None and not self._sent and self._limiter.ledger is not None:
                    self._limiter.ledger.give_back()
            self._limiter._condition.notify_all()

    def cancel(self) -> None:
        with self._limiter._condition:
            self._limiter._condition.notify_all()
