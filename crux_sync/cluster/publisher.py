"""From a shard to the streams: every event once, in order, its JSON untouched."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

from ..errors import GatewayClosed
from ..events import Event
from ..subscription import Subscription
from .client import ResponseError, patient
from .keys import Keys, partition_of
from .leases import Lease

logger = logging.getLogger(__name__)

#: Events written together, and how many may wait unread in one stream before the writers wait too.
TOGETHER = 256
BACKLOG = 100_000

#: How long to wait when a stream is full, seconds.
FULL_WAIT = 0.1

#: Written under the lease that its writer holds, or not at all; what is in the streams already is left out. Where
#: memory ends in the middle, what was written is remembered, so that the next try goes on from there.
#:
#: KEYS: lease, published, streams. ARGV: token, backlog, shard, shard count, then for each event: stream's index,
#: session, sequence, type, JSON. Returns how many were new, or -1: a stream is full.
PUBLISH = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return redis.error_reply('FENCED without the lease') end
for index = 3, #KEYS do
  if redis.call('XLEN', KEYS[index]) >= tonumber(ARGV[2]) then return -1 end
end
local known = redis.call('HMGET', KEYS[2], 'session', 'sequence')
local session, sequence, added = known[1], tonumber(known[2] or -1), 0
local failed
for at = 5, #ARGV, 5 do
  if ARGV[at + 1] ~= session or tonumber(ARGV[at + 2]) > sequence then
    local done = redis.pcall('XADD', KEYS[tonumber(ARGV[at])], '*', 't', ARGV[at + 3], 's', ARGV[at + 2],
      'h', ARGV[3], 'n', ARGV[4], 'i', ARGV[at + 1], 'd', ARGV[at + 4])
    if type(done) == 'table' and done.err then failed = done break end
    session, sequence, added = ARGV[at + 1], tonumber(ARGV[at + 2]), added + 1
  end
end
if added > 0 then redis.pcall('HSET', KEYS[2], 'session', session, 'sequence', string.format('%.0f', sequence)) end
if failed then return failed end
return added
"""


class StreamPublisher:
    """The thread ``crux-publisher-<shard>``: it takes a shard's events and writes them.

    An event counts as handled once Redis has it; until then the shard's stored sequence does not pass it, and when
    Redis is slow, full or away the queue fills and the socket is not read. ``session_id``: of the events to come,
    until the next READY.
    """

    def __init__(
        self,
        client: Any,
        keys: Keys,
        lease: Lease,
        subscription: Subscription,
        shard: tuple[int, int],
        partitions: int,
        session_id: str | None,
        *,
        backlog: int = BACKLOG,
    ) -> None:
        #: Events written, and events that were in the streams already.
        self.written = self.repeated = 0
        #: Why it ended before its subscription did; None: it has not, or was told to.
        self.failure: BaseException | None = None
        self._client, self._keys, self._lease, self._subscription = client, keys, lease, subscription
        self._shard, self._partitions, self._backlog = shard, partitions, backlog
        self._session_id = session_id
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"crux-publisher-{shard[0]}", daemon=True)

    def start(self) -> None:
        """Begin. One thread is started."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> bool:
        """End after the batch in hand, at most ``timeout`` seconds; whether it ended. What it has not written stays
        unhandled. The subscription must be closed for it to wake."""
        self._stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                events = self._subscription.get_many(TOGETHER)
                if not self._publish([event for event in events if event.sequence is not None]):
                    return  # not asking for more leaves these unhandled
        except GatewayClosed:
            pass
        except Exception as error:
            self.failure = error
            logger.exception("shard %d: events cannot be published", self._shard[0], extra={"shard": self._shard[0]})

    def _publish(self, events: Sequence[Event]) -> bool:
        """Write until Redis has all of them. False: stopped, or the lease is over."""
        if not events:
            return True
        streams, arguments = self._encode(events)
        while self._lease.valid and not self._stopping.is_set():
            added = patient(lambda: self._write(streams, arguments), self._stopping)
            if added is None:
                return False
            if added >= 0:
                self.written += added
                self.repeated += len(events) - added
                return True
            self._stopping.wait(FULL_WAIT)
        return False

    def _write(self, streams: list[str], arguments: list[Any]) -> int | None:
        if not self._lease.valid:
            return None
        keys = (self._keys.shard(self._shard[0]), self._keys.published(self._shard[0]), *streams)
        try:
            head = (self._lease.token, self._backlog, *self._shard)
            return int(self._client.eval(PUBLISH, len(keys), *keys, *head, *arguments))
        except ResponseError as error:
            if "FENCED" in str(error):
                logger.warning("shard %d: %s", self._shard[0], error, extra={"shard": self._shard[0]})
                return None
            raise

    def _encode(self, events: Sequence[Event]) -> tuple[list[str], list[Any]]:
        """The streams that are written to, and for each event the script's five arguments."""
        streams: dict[int, int] = {}
        arguments: list[Any] = []
        for event in events:
            if event.type == "READY":
                self._session_id = event.data["session_id"]
            partition = partition_of(event.guild_id, event.shard_id, self._partitions)
            index = streams.setdefault(partition, len(streams) + 3)
            arguments += [index, self._session_id or "", event.sequence, event.type or "", event.raw]
        return [self._keys.events(partition) for partition in streams], arguments
