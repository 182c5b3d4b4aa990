"""A worker process of a cluster: it takes events from the streams and calls the functions registered for them."""

import logging
import os
import socket
import threading
import time
import uuid

from ..callbacks import Registry
from ..errors import ConfigurationError
from ..options import whole_number
from .client import PASSING, SOCKET_TIMEOUT, RedisError, connect
from .config import agreed
from .consumer import Consumer
from .keys import Keys
from .leases import Lease, share
from .members import Membership
from .partitions import Partition, Streams
from .process import Process
from .worker_commands import WorkerCommands

logger = logging.getLogger(__name__)

#: A worker's leases are short: unlike a gateway it has no connection to keep while Redis is away. Seconds.
DURATION, MARGIN = 6.0, 2.0

#: A lease is renewed, and a sign of life given, so many times while it lasts; who has missed most of them is gone.
LOOKS, MISSED = 12, 0.7

#: An event that was handed out so often, and never finished, is set aside.
TRIES = 3


class Worker(WorkerCommands, Process):
    """Handles what the gateways of a cluster publish: ``Worker("redis://...", name="bot")``, then ``on`` as usual.

    ``name``: what all processes of the bot call it. ``threads``: how many call callbacks, each for partitions of its
    own. ``tries``: how often an event may be handed out and not finished (its process died) before it is set aside as
    poison. ``lease`` and ``margin``: after how long others take over from a worker that is gone, and by how much
    earlier it stops by itself, seconds.

    The events of a guild are handled in order, by one worker at a time. Each is handled at least once: it is
    acknowledged when its callbacks have returned or raised; what they raise goes to ``on_error``. Events are
    ``ClusterEvent`` objects. Callbacks run on threads named ``crux-cluster-worker-<n>``. Any thread may call any
    method, callbacks included, but for ``run`` (signals are handled on the main thread only); start it after ``fork``.
    Raises ConfigurationError.
    """

    def __init__(
        self,
        redis: str = "redis://127.0.0.1:6379/0",
        *,
        name: str = "bot",
        threads: int = 1,
        tries: int = TRIES,
        lease: float = DURATION,
        margin: float = MARGIN,
    ) -> None:
        if not 0 < margin < lease:
            raise ConfigurationError(f"margin={margin:g} must be more than 0 and less than lease={lease:g}")
        client, keys = connect(redis), Keys(name)
        Process.__init__(self)
        WorkerCommands.__init__(self, Registry(), client, keys, self._stopping)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._duration, self._margin = float(lease), float(margin)
        self._membership = Membership(client, keys.workers, self.name, MISSED * self._duration)
        whole_number("tries", 1)(tries)
        self._streams = Streams(client, keys, self.name, tries)
        self._consumers = [
            Consumer(number, Streams(client, keys, self.name, tries), self._registry, self._left)
            for number in range(whole_number("threads", 1)(threads))
        ]
        self._phase_lock = threading.Lock()
        self._started = False
        #: Set when a partition was given back: there may be another to take.
        self._woken = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="crux-cluster-leases", daemon=True)

    def __repr__(self) -> str:
        return f"<Worker {self.name}: partitions {self.partitions or 'none'}, {self.handled} handled>"

    @property
    def partitions(self) -> list[int]:
        """The partitions that are this worker's now. Any thread."""
        return sorted(one.number for consumer in self._consumers for one in consumer.partitions if one.active)

    @property
    def handled(self) -> int:
        """How many events it has handled. Any thread."""
        return sum(consumer.handled for consumer in self._consumers)

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """Begin, and return at once. Redis being away is waited out. Any thread; once. Raises ConfigurationError."""
        with self._phase_lock:
            if self._started:
                raise ConfigurationError("a Worker is started once; make a new one")
            self._started = True
        self._keeper.start()
        for consumer in self._consumers:
            consumer.thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """Stop after the events in hand, at most ``timeout`` seconds; others take over at once.

        Any thread, also a callback. Idempotent. What was not handled stays in the streams.
        """
        self._stopping.set()
        self._woken.set()
        for consumer in self._consumers:
            consumer.stop()
        deadline = time.monotonic() + timeout
        threads = [consumer.thread for consumer in self._consumers] + [self._keeper]
        if threading.current_thread() in threads:
            return  # a callback: the threads end by themselves when it has returned
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(deadline - time.monotonic(), 0.05))
        if not self._started:
            self._lent.close(timeout)
            self._stopped.set()

    # ---------------------------------------------------------------- leases, on their own thread

    def _keep(self) -> None:
        every = self._duration / LOOKS
        while not self._stopping.is_set():
            try:
                self._look()
            except PASSING as error:
                logger.debug("looking after leases: %s", error)
            except Exception:
                logger.exception("looking after leases failed; it is tried again")
            self._woken.wait(every)
            self._woken.clear()
        self._renew_until_left()
        try:
            self._membership.leave()
        except RedisError as error:
            logger.debug("leaving: %s", error)
        self._lent.close(SOCKET_TIMEOUT)
        self._stopped.set()

    def _renew_until_left(self) -> None:
        """A callback may go on for a while after ``close``: its partition stays ours until it has returned."""
        for consumer in self._consumers:
            while consumer.thread.is_alive():
                try:
                    self._renew()
                except RedisError as error:
                    logger.debug("renewing: %s", error)
                consumer.thread.join(self._duration / LOOKS)

    def _renew(self) -> list[Partition]:
        """Every partition that is ours, its lease lengthened; one whose lease is over is left by its thread."""
        held = [one for consumer in self._consumers for one in consumer.partitions]
        for one in held:
            one.lease.renew()
        return held

    def _look(self) -> None:
        members = self._membership.beat()
        held = {one.number: one for one in self._renew()}
        total = agreed(self._client, self._keys, "partitions")
        if total is None:
            return  # no gateway has been here yet
        wanted = share(members, self.name, total)
        kept = [number for number, one in sorted(held.items()) if one.active]
        for number in kept[wanted:]:
            self._leave(held[number])
        del kept[wanted:]
        # Everybody begins elsewhere, so that not all ask for the same.
        first = sorted(members).index(self.name) * total // len(members)
        for step in range(total):
            number = (first + step) % total
            if len(kept) >= wanted or self._stopping.is_set():
                break
            if number not in held and self._take(number):
                kept.append(number)

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
        self._streams.create_group(stream)
        min(self._consumers, key=len).add(Partition(number, lease, stream))
        logger.info("partition %d is ours now", number)
        return True

    def _leave(self, partition: Partition) -> None:
        for consumer in self._consumers:
            if partition.number in consumer:
                consumer.leave(partition)

    def _left(self, partition: Partition) -> None:
        logger.info("partition %d is ours no longer", partition.number)
        self._woken.set()
