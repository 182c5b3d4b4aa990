"""Saves sessions as they are handled: off the hot path, at most once a second, at once when one is new.

The sequence that is saved is a low-water mark: every event up to it was handled by every consumer that got it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from .sessions import SessionStore, StoredSession
from .shard import Shard
from .subscription import Subscription

logger = logging.getLogger(__name__)

#: Seconds between saves.
SAVE_EVERY = 1.0

#: A consumer that is this many events behind risks more than Discord keeps for a replay.
FAR_BEHIND = 1000

#: How often that is logged, seconds.
LOG_EVERY = 60.0


def handled_session(shard: Shard, subscriptions: Iterable[Subscription]) -> StoredSession | None:
    """The session of ``shard`` with the sequence up to which everything is handled; None: there is no session."""
    # First what is dealt, then who still has some of it: an event dealt in between can only be newer.
    found = shard.dealt_session()
    if found is None:
        return None
    stored, floor = found
    handled = stored.sequence
    for subscription in subscriptions:
        for event in subscription.queue.unhandled():
            if event.shard_id == shard.id and event.sequence is not None:
                handled = min(handled, event.sequence - 1)
    return stored._replace(sequence=max(handled, floor))


class Keeper:
    """The thread ``crux-keeper`` of a gateway with a persistent store."""

    def __init__(
        self,
        store: SessionStore,
        shards: Callable[[], Mapping[int, Shard]],
        consumers: Callable[[], Iterable[Subscription]],
    ) -> None:
        self._store = store
        self._shards = shards
        self._consumers = consumers
        self._wake = threading.Event()
        self._stopped = False
        self._saved: dict[int, StoredSession | None] = {}
        self._logged = 0.0
        self._thread = threading.Thread(target=self._run, name="crux-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """A session is new: save it now. Any thread, never blocks."""
        self._wake.set()

    def close(self, consumers: Iterable[Subscription]) -> None:
        """Save once more, for what these consumers have handled, and close the store."""
        self._stopped = True
        self._wake.set()
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(5.0)
        self._save(consumers)
        self._store.close()

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait(SAVE_EVERY)
            self._wake.clear()
            if not self._stopped:
                self._save(self._consumers())

    def _save(self, consumers: Iterable[Subscription]) -> None:
        consumers = list(consumers)
        found = {shard_id: self._state(shard, consumers) for shard_id, shard in self._shards().items()}
        changed = {shard_id: one for shard_id, one in found.items() if one != self._saved.get(shard_id)}
        if not changed:
            return
        try:
            self._store.save(changed)
        except Exception:  # a full disk must not end the gateway; the next second tries again
            logger.exception("sessions could not be saved")
            return
        self._saved |= changed

    def _state(self, shard: Shard, consumers: list[Subscription]) -> StoredSession | None:
        stored = handled_session(shard, consumers)
        if stored is not None:
            shard.session.handled = stored.sequence
            self._watch(shard, stored.sequence)
        return stored

    def _watch(self, shard: Shard, handled: int) -> None:
        behind = (shard.sequence or 0) - handled
        now = time.monotonic()
        if behind > FAR_BEHIND and now - self._logged > LOG_EVERY:
            self._logged = now
            logger.warning(
                "shard %d: consumers are %d events behind; Discord's replay is finite",
                shard.id,
                behind,
                extra={"shard": shard.id},
            )
