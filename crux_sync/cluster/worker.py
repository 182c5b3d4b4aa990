"""A worker process of a cluster: it takes events from the streams and calls the functions registered for them."""

import logging
import os
import socket
import threading
import time
import uuid
from typing import Any, Self

from msgspec import Raw

from ..callbacks import Registry
from ..events import Event
from ..registering import Registering
from ..signals import Interrupted, closing_signals
from .client import PASSING, SOCKET_TIMEOUT, RedisError, ResponseError, connect
from .config import agreed
from .keys import GROUP, Keys
from .leases import Lease, share
from .members import Membership

logger = logging.getLogger(__name__)

#: A worker's leases are short: unlike a gateway it has no connection to keep while Redis is away. Seconds.
DURATION, MARGIN = 6.0, 2.0

#: How often a worker looks after its leases, and how long it waits for an event at most, seconds.
LOOK_EVERY = 0.5
BLOCK = 0.2

#: Entries taken from a stream together. The fewer, the less comes again after a crash.
TOGETHER = 64

#: An entry that was begun so often, and never finished, is set aside.
TRIES = 3

#: Take new entries, by who holds the partition: one that was stopped for a while takes nothing behind its successor's
#: back. KEYS: lease, stream. ARGV: token, group, consumer, how many.
READ = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return redis.error_reply('FENCED without the lease') end
local found = redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', ARGV[4], 'STREAMS', KEYS[2], '>')
return found and found[1][2] or {}
"""

#: Begin an entry again that somebody had begun. KEYS: lease, stream. ARGV: token, group, consumer, entry.
CLAIM = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return redis.error_reply('FENCED without the lease') end
redis.call('XCLAIM', KEYS[2], ARGV[2], ARGV[3], 0, ARGV[4])
return redis.call('XRANGE', KEYS[2], ARGV[4], ARGV[4])
"""

#: Acknowledge and remove, by who holds the partition. KEYS: lease, stream. ARGV: token, group, entries.
DONE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return redis.error_reply('FENCED without the lease') end
for at = 3, #ARGV do
  redis.call('XACK', KEYS[2], ARGV[2], ARGV[at])
  redis.call('XDEL', KEYS[2], ARGV[at])
end
return #ARGV - 2
"""

#: Set an entry aside. KEYS: lease, stream, poison. ARGV: token, group, entry, partition, tries.
SET_ASIDE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return redis.error_reply('FENCED without the lease') end
local found = redis.call('XRANGE', KEYS[2], ARGV[3], ARGV[3])[1]
if found then
  redis.call('XADD', KEYS[3], '*', 'partition', ARGV[4], 'entry', ARGV[3], 'tries', ARGV[5], unpack(found[2]))
end
redis.call('XACK', KEYS[2], ARGV[2], ARGV[3])
redis.call('XDEL', KEYS[2], ARGV[3])
return 1
"""


class Partition:
    """A stream whose lease this worker holds. ``resumed``: what others, or an earlier life, had begun is done."""

    def __init__(self, number: int, lease: Lease, stream: str) -> None:
        self.number, self.lease, self.stream = number, lease, stream
        self.resumed = False
        #: Held while its events are handled: it is not given away meanwhile.
        self.busy = threading.Lock()


class Worker(Registering):
    """Handles events that gateways of a cluster publish: ``Worker("redis://...", name="bot")``, then ``on`` as usual.

    ``name``: what all processes of the bot call it. ``tries``: how often an event may be begun and not finished (the
    process died) before it is set aside. Each guild's events are handled in order, by one worker at a time; each event
    at least once, and acknowledged when its callbacks have returned or raised. Callbacks run on one thread,
    ``crux-cluster-worker``. Any thread may call any method. Raises ConfigurationError.
    """

    def __init__(
        self,
        redis: str = "redis://127.0.0.1:6379/0",
        *,
        name: str = "bot",
        tries: int = TRIES,
        lease: float = DURATION,
        margin: float = MARGIN,
    ) -> None:
        super().__init__(Registry())
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        #: Events handled, and set aside, by this worker.
        self.handled = self.poisoned = 0
        self._client, self._keys, self._tries = connect(redis), Keys(name), tries
        self._duration, self._margin = lease, margin
        self._membership = Membership(self._client, self._keys.workers, self.name)
        self._partitions: dict[int, Partition] = {}
        self._looked = 0.0
        self._stopping, self._stopped = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._beats = threading.Thread(target=self._keep, name="crux-cluster-leases", daemon=True)
        self._thread = threading.Thread(target=self._run, name="crux-cluster-worker", daemon=True)
        #: Guards the partitions: one thread works on them, another renews their leases.
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Worker {self.name}: partitions {self.partitions or 'none'}, {self.handled} handled>"

    @property
    def partitions(self) -> list[int]:
        """The partitions that are this worker's now."""
        with self._lock:
            return sorted(number for number, one in self._partitions.items() if one.lease.valid)

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """Begin, and return at once. Redis being away is waited out."""
        self._beats.start()
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it is closed. Raises TimeoutError after ``timeout`` seconds; what was fatal, if anything."""
        if not self._stopped.wait(timeout):
            raise TimeoutError(f"still running after {timeout:g} s")
        if self._failure is not None:
            raise self._failure

    def close(self, timeout: float = 10.0) -> None:
        """Stop after the event in hand, at most ``timeout`` seconds; others take over at once. Idempotent."""
        self._stopping.set()
        deadline = time.monotonic() + timeout
        for thread in (self._thread, self._beats):
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(max(deadline - time.monotonic(), 0.05))

    def run(self) -> None:
        """Start, block until it ends, close. Ctrl-C and SIGTERM close it and return."""
        with closing_signals():
            try:
                self.start()
                self.join()
            except Interrupted:
                pass
            finally:
                self.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---------------------------------------------------------------- leases, on their own thread

    def _keep(self) -> None:
        while not self._stopping.wait(LOOK_EVERY if self._looked else 0.0):
            try:
                self._look()
            except PASSING as error:
                logger.debug("looking after leases: %s", error)
            except Exception:  # leases run out by themselves; the next look may do better
                logger.exception("looking after leases")
            self._looked = time.monotonic()

    def _look(self) -> None:
        with self._lock:
            held = list(self._partitions.values())
        for one in held:
            if not one.lease.renew():
                logger.warning("partition %d: the lease is over", one.number)
                self._drop(one)
        total = agreed(self._client, self._keys, "partitions")
        if total is None:
            return  # no gateway has been here yet
        wanted = share(self._membership.beat(), self.name, total)
        with self._lock:
            numbers = sorted(self._partitions)
        for number in numbers[wanted:]:
            self._give_back(number)
        for number in range(total):
            if len(numbers) >= wanted or self._stopping.is_set():
                break
            if number not in numbers and self._take(number):
                numbers.append(number)

    def _take(self, number: int) -> bool:
        lease = Lease(
            self._client,
            self._keys.partition(number),
            self._keys.tokens,
            self.name,
            duration=self._duration,
            margin=self._margin,
        )
        if not lease.acquire():
            return False
        stream = self._keys.events(number)
        try:
            self._client.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        with self._lock:
            self._partitions[number] = Partition(number, lease, stream)
        return True

    def _give_back(self, number: int) -> None:
        """Unless its events are being handled; then the next time."""
        one = self._partitions.get(number)
        if one is not None and one.busy.acquire(timeout=LOOK_EVERY):
            try:
                one.lease.release()
                self._drop(one)
            finally:
                one.busy.release()

    def _drop(self, one: Partition) -> None:
        with self._lock:
            if self._partitions.get(one.number) is one:
                del self._partitions[one.number]

    # ---------------------------------------------------------------- events

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    if not self._work():
                        self._stopping.wait(BLOCK)
                except PASSING as error:
                    logger.warning("waiting for Redis: %s", error)
                    self._stopping.wait(LOOK_EVERY)
        except BaseException as error:
            logger.exception("the worker's thread ended")
            self._failure = error
        finally:
            self._stopping.set()
            self._beats.join(2 * SOCKET_TIMEOUT)  # it uses what is given back now
            self._leave()
            self._stopped.set()

    def _work(self) -> bool:
        """Handle what is there in each partition, the begun before the new; whether there was anything."""
        with self._lock:
            partitions = list(self._partitions.values())
        found = False
        for one in partitions:
            if self._stopping.is_set():
                break
            if not one.resumed:
                one.resumed = not self._take_over(one)
                found = True
            else:
                found |= self._new(one)
        return found

    def _take_over(self, one: Partition) -> bool:
        """Handle what somebody had begun and not finished, one by one; whether there was anything."""
        pending = self._client.xpending_range(one.stream, GROUP, "-", "+", TOGETHER)
        for entry in pending:
            with one.busy:
                if not self._may(one):
                    break
                number, tries = entry["message_id"], entry["times_delivered"]
                if tries >= self._tries:
                    self._set_aside(one, number, tries)
                    continue
                for _, fields in self._script(one, CLAIM, [], GROUP, self.name, number):
                    self._handle(pairs(fields))
                self._script(one, DONE, [], GROUP, number)
        return bool(pending)

    def _new(self, one: Partition) -> bool:
        with one.busy:
            if not self._may(one):
                return False
            entries = self._script(one, READ, [], GROUP, self.name, TOGETHER)
            done = []
            for number, fields in entries:
                if not self._may(one):
                    break  # what is left is pending, for whoever comes next
                self._handle(pairs(fields))
                done.append(number)
            if done:
                self._script(one, DONE, [], GROUP, *done)
            return bool(done)

    def _may(self, one: Partition) -> bool:
        return one.lease.valid and not self._stopping.is_set()

    def _handle(self, fields: dict[bytes, bytes]) -> None:
        self._registry.handle(read_event(fields))
        self.handled += 1

    def _set_aside(self, one: Partition, number: bytes, tries: int) -> None:
        logger.error("an event was begun %d times and never finished: set aside as poison", tries)
        self._script(one, SET_ASIDE, [self._keys.poison], GROUP, number, one.number, tries)
        self.poisoned += 1

    def _script(self, one: Partition, script: str, keys: list[str], *arguments: Any) -> Any:
        """Run a script under the partition's lease; where it is over, nothing is done, and the partition dropped."""
        keys = [one.lease.key, one.stream, *keys]
        try:
            return self._client.eval(script, len(keys), *keys, one.lease.token, *arguments)
        except ResponseError as error:
            if "FENCED" not in str(error):
                raise
            logger.warning("partition %d: %s", one.number, error)
            one.lease.token = 0
            return []

    def _leave(self) -> None:
        try:
            with self._lock:
                for one in self._partitions.values():
                    one.lease.release()
                self._partitions.clear()
            self._membership.leave()
        except RedisError as error:
            logger.warning("leases are left to run out: %s", error)
        self._client.close()


def pairs(fields: list[bytes]) -> dict[bytes, bytes]:
    """Fields and values that follow each other, as a dict."""
    return dict(zip(fields[::2], fields[1::2], strict=True))


def read_event(fields: dict[bytes, bytes]) -> Event:
    """The event of a stream's entry."""
    data = fields[b"d"]
    return Event(0, fields[b"t"].decode(), int(fields[b"s"]), Raw(data), int(fields[b"h"]), len(data))


class Poison:
    """The events that were set aside. Any thread; raises RedisError."""

    def __init__(self, redis: str = "redis://127.0.0.1:6379/0", *, name: str = "bot") -> None:
        self._client, self._keys = connect(redis), Keys(name)

    def list(self, most: int = 100) -> "list[tuple[str, int, Event]]":
        """The oldest ``most``: the id to name them by, how often each was tried, and the event."""
        found = self._client.xrange(self._keys.poison, count=most)
        return [(number.decode(), int(fields[b"tries"]), read_event(fields)) for number, fields in found]

    def retry(self, number: str) -> bool:
        """Put one back at the end of its stream; whether there was one."""
        found = self._client.xrange(self._keys.poison, number, number)
        for _, fields in found:
            stream = self._keys.events(int(fields.pop(b"partition")))
            del fields[b"entry"], fields[b"tries"]
            with self._client.pipeline() as together:
                together.xadd(stream, fields)
                together.xdel(self._keys.poison, number)
                together.execute()
        return bool(found)

    def drop(self, number: str) -> bool:
        """Forget one; whether there was one."""
        return bool(self._client.xdel(self._keys.poison, number))

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()
