"""The threads of a worker: each takes turns on some partitions and calls the functions for what is there."""

import logging
import threading
from collections.abc import Callable

from ..callbacks import Registry
from .client import PASSING, RedisError, patient
from .partitions import ClusterEvent, Partition, Streams

logger = logging.getLogger(__name__)

#: How long a thread waits in Redis for something new before it looks whether it is to stop, seconds.
BLOCK = 0.25

#: After an error that nobody foresaw, seconds.
UNEXPECTED_WAIT = 1.0


class Consumer:
    """A thread ``crux-cluster-worker-<n>`` and its partitions. ``add``, ``leave`` and ``stop`` from any thread."""

    def __init__(self, number: int, streams: Streams, registry: Registry, left: Callable[[Partition], None]) -> None:
        #: Events handled.
        self.handled = 0
        self._streams, self._registry, self._left = streams, registry, left
        self._condition = threading.Condition()
        self._partitions: dict[int, Partition] = {}
        self._stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"crux-cluster-worker-{number}", daemon=True)

    def __len__(self) -> int:
        return len(self._partitions)

    def __contains__(self, number: int) -> bool:
        return number in self._partitions

    @property
    def partitions(self) -> list[Partition]:
        """Those it has now, also while it is leaving them."""
        with self._condition:
            return list(self._partitions.values())

    def add(self, partition: Partition) -> None:
        """Begin to work on one more."""
        with self._condition:
            self._partitions[partition.number] = partition
            self._condition.notify_all()

    def leave(self, partition: Partition) -> None:
        """Give one back, after the event in hand."""
        with self._condition:
            partition.leaving = True
            self._condition.notify_all()

    def stop(self) -> None:
        """End after the event in hand, and give everything back."""
        self._stopping.set()
        with self._condition:
            self._condition.notify_all()

    # ---------------------------------------------------------------- its thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._condition:
                self._condition.wait_for(lambda: self._partitions or self._stopping.is_set())
            try:
                self._let_go([one for one in self.partitions if not one.active])
                patient(self._work, self._stopping)
            except Exception:
                logger.exception("a worker's thread met an error; it goes on")
                self._look_again()
                self._stopping.wait(UNEXPECTED_WAIT)
        self._let_go(self.partitions)

    def _work(self) -> None:
        """One turn on every partition. Where it fails, what Redis has given without our knowing is looked for."""
        active = [one for one in self.partitions if one.active]
        if not active or self._stopping.is_set():
            return
        try:
            given = self._streams.turn(active)
            for partition, entries in given:
                for number, event in entries:
                    if self._stopping.is_set() or not partition.active:
                        break  # pending, for whoever comes next
                    self._handle(event)
                    partition.handled.append(number)
            if not any(entries for _, entries in given):
                self._streams.wait(active, BLOCK)
        except PASSING:
            self._look_again()
            raise

    def _handle(self, event: ClusterEvent) -> None:
        if self._registry.table[event.type]:
            self._registry.handle(event)
        self.handled += 1

    def _look_again(self) -> None:
        for one in self.partitions:
            one.look = True

    def _let_go(self, partitions: list[Partition]) -> None:
        """Acknowledge what is handled, while the lease is valid, and give back."""
        for one in partitions:
            try:
                if one.lease.valid:
                    self._streams.turn([one], 0)
                    one.lease.release()
                else:
                    logger.warning("partition %d: the lease is over", one.number)
            except RedisError as error:
                logger.warning("partition %d is left to whoever comes when the lease ends: %s", one.number, error)
            with self._condition:
                self._partitions.pop(one.number, None)
            self._left(one)
