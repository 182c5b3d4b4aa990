"""Who waits for a shard's socket: its own thread, or one thread for all that are at rest (leader and followers).

A thread that wakes for a single event costs far more than the event: the kernel switches to it, and it asks for the GIL
two or three times. So the threads of shards with nothing to do line up here. One of them, the leader, waits for all
their sockets and takes the step that is due on each. A shard that needs more than a step (its connection is over, a
consumer is full) gets its own thread back, and where the leader's own shard does, the next in line leads.

That pays while the GIL comes back at once. Beside a thread that computes, every call that lets go of it waits, and many
threads wait together where one would wait in turn; so once that is seen, all read for themselves for a while. Without a
GIL every shard reads for itself always.

Functions of the user's hold up the shard they run for and no other: while there is a selector, a hash, a dispatcher or
a ``permitted`` of the user's, nobody stands here. Only log handlers see the leader's thread.
"""

import select
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from time import monotonic, perf_counter, thread_time
from typing import Protocol

#: Whether threads share a GIL, and the system can wait for many sockets at a price that does not grow with them.
POSSIBLE = getattr(sys, "_is_gil_enabled", lambda: True)() and hasattr(select, "epoll")

#: A leader that waited this long in its steps, seconds, waited for the GIL: another thread computes, and keeps it for
#: five milliseconds at a time.
STALL = 0.004

#: After a stall each reads for itself for so long: the first time, and at most, seconds. It doubles while stalls go on:
#: looking again costs a few switches, and the kernel may have given the core to another process just once.
APART = (1.0, 30.0)


class Member(Protocol):
    """A shard whose socket is watched."""

    def fileno(self) -> int:
        """The descriptor of its socket; the same from ``stand`` until that returns."""

    def step(self) -> bool:
        """Take what has arrived, on the leader's thread, and wait for nothing. False: its own thread must go on.

        Raises nothing: it would end the wrong shard.
        """


class Place:
    """A member in line, and what its thread waits for."""

    __slots__ = ("called", "member", "relieved")

    def __init__(self, member: Member) -> None:
        self.member = member
        #: Taken from the start; let go when the thread is to lead, or is relieved.
        self.called = Lock()
        self.called.acquire()
        #: Out of the line: the thread reads for itself.
        self.relieved = False


class Watch:
    """One per gateway. ``join``, ``leave`` and ``stand`` are called by each shard's own thread."""

    def __init__(self, possible: bool = POSSIBLE) -> None:
        self._possible = possible
        self._lock = Lock()
        #: Connections that are up.
        self._members = 0
        #: More than one is: alone a thread waits for its own socket, which is a call less for each receive.
        self.worthwhile = False
        self._epoll: select.epoll | None = None
        #: Who stands in line, by descriptor. Changed under the lock; the leader looks up without it.
        self._places: dict[int, Place] = {}
        self._leader: Place | None = None
        self._apart_until = -APART[1]
        self._apart = APART[0]

    def __repr__(self) -> str:
        leader = "nobody" if self._leader is None else repr(self._leader.member)
        return f"<Watch of {len(self._places)} of {self._members}, led by {leader}>"

    def join(self) -> None:
        """A connection is up."""
        with self._lock:
            self._count(1)

    def leave(self) -> None:
        """A connection is over, before its socket is closed."""
        with self._lock:
            self._count(-1)
            if not self._members:
                self._close()

    def _count(self, change: int) -> None:
        self._members += change
        self.worthwhile = self._possible and self._members > 1

    def stand(self, member: Member) -> None:
        """Rest until ``member`` has to read for itself; at once where that is better anyway."""
        # Who waits for the lock waits for the GIL with the lock in hand, each in turn: read alone this once instead.
        if monotonic() < self._apart_until or not self._lock.acquire(blocking=False):
            return
        place = Place(member)
        try:
            leads = self._enlist(place)
        except OSError:  # no descriptor to be had: a shard can do without
            return
        finally:
            self._lock.release()
        if not leads:
            place.called.acquire()
        if not place.relieved:
            self._lead(place)

    def _enlist(self, place: Place) -> bool:
        """Put ``place`` in line; whether it is to lead. The lock is held."""
        if self._epoll is None:
            self._epoll = select.epoll()
        descriptor = place.member.fileno()
        self._places[descriptor] = place  # before the leader can hear of it
        try:
            self._epoll.register(descriptor, select.EPOLLIN)
        except BaseException:  # a place that nobody is told of would never be called
            del self._places[descriptor]
            raise
        if self._leader is not None:
            return False
        self._leader = place
        return True

    # ---------------------------------------------------------------- the leader

    def _lead(self, place: Place) -> None:
        assert self._epoll is not None  # it lives while there are members, and the leader is one
        poll = self._epoll.poll
        try:
            while not place.relieved and self.worthwhile:
                self._look(poll)
        except OSError:  # somebody closed a descriptor that is not his; the next would meet the same
            self._part()
        finally:
            with self._lock:
                self._relieve(place)
                self._leader = next(iter(self._places.values()), None)
                if self._leader is not None:
                    self._leader.called.release()

    def _look(self, poll: Callable[[], list[tuple[int, int]]]) -> None:
        """Wait, and take the steps that are due."""
        due = poll()
        began = before = perf_counter()
        worked = thread_time()
        for descriptor, _ in due:
            place = self._places[descriptor]
            if not place.member.step():
                with self._lock:
                    self._relieve(place)
            now = perf_counter()
            # A step may be long because there was much to do; what of the time was no work was waiting.
            if now - before >= STALL and now - began - (thread_time() - worked) >= STALL:
                self._part()
                return  # what is due still is taken by those whose it is
            before = now

    def _part(self) -> None:
        """Everybody reads for himself for a while."""
        now = monotonic()
        # Long after the last stall a new one counts as the first.
        self._apart = APART[0] if now - self._apart_until > APART[1] else min(2 * self._apart, APART[1])
        self._apart_until = now + self._apart
        with self._lock:
            self._close()  # to unregister each would let go of the GIL as often
            places = list(self._places.values())
            self._places.clear()
            for place in places:
                self._call(place)

    def _relieve(self, place: Place) -> None:
        """Take ``place`` out of the line. The lock is held."""
        if place.relieved:
            return
        assert self._epoll is not None
        descriptor = place.member.fileno()
        del self._places[descriptor]
        with suppress(OSError):
            self._epoll.unregister(descriptor)
        self._call(place)

    def _call(self, place: Place) -> None:
        """Wake the thread of ``place``, to read for itself."""
        place.relieved = True
        place.called.release()

    def _close(self) -> None:
        if self._epoll is not None:
            with suppress(OSError):
                self._epoll.close()
            self._epoll = None
