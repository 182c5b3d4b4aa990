"""A worker's dealings with the streams: one script that acknowledges, takes over, sets aside and reads.

It does nothing for who does not hold the lease of a partition, so that reading is fenced as well: what a stopped
process would take from a stream is never handled behind what its successor has handled.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec import Raw

from ..events import Event
from .client import ResponseError
from .keys import GROUP, Keys
from .leases import Lease

#: Entries taken from a stream together.
TOGETHER = 64

#: For each partition: acknowledge what was handled, remove what every group has acknowledged (never what is unread);
#: then the oldest entry that is pending, else new ones.
#:
#: A delivery counts as a try only where another process had the entry before, and pending entries are handed out one
#: by one: what merely stood behind an event that killed its process is not charged for it. An entry of too many tries
#: goes to the poison stream.
#:
#: KEYS: poison, then lease and stream of each. ARGV: group, consumer, how many, tries, then for each: token, partition,
#: 1 to look at pending ones, number of handled entries, those. Returns for each: state, last id that the group has
#: been given, tries, entries; state -1: the lease is not ours, 0: new ones, 1: a pending one.
TURN = """
local group, me, count, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function parse(id)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  return tonumber(ms), tonumber(seq)
end

local function less(a, b)
  local ams, aseq = parse(a)
  local bms, bseq = parse(b)
  return ams < bms or (ams == bms and aseq < bseq)
end

local function groups(stream)
  local all = {}
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local one = {}
    for at = 1, #flat, 2 do one[flat[at]] = flat[at + 1] end
    all[#all + 1] = one
  end
  return all
end

local function trim(stream)
  local oldest
  for _, one in ipairs(groups(stream)) do
    local needed
    if one.pending > 0 then
      needed = redis.call('XPENDING', stream, one.name)[2]
    else
      local ms, seq = parse(one['last-delivered-id'])
      needed = string.format('%.0f-%.0f', ms, seq + 1)
    end
    if not oldest or less(needed, oldest) then oldest = needed end
  end
  if oldest then redis.call('XTRIM', stream, 'MINID', '=', oldest) end
end

local function oldest_pending(stream, partition)
  while true do
    local found = redis.call('XPENDING', stream, group, '-', '+', 1)[1]
    if not found then return nil end
    local id, tries = found[1], found[4]
    if tries >= most and found[2] ~= me then
      local entry = redis.call('XRANGE', stream, id, id)[1]
      if entry then
        redis.call('XADD', KEYS[1], '*', 'partition', partition, 'entry', id, 'tries', tries, unpack(entry[2]))
      end
      redis.call('XACK', stream, group, id)
    else
      if found[2] ~= me then tries = tries + 1 end
      local claimed = redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', tries)
      if claimed[1] and claimed[1][2] then return claimed, tries end
      redis.call('XACK', stream, group, id)
    end
  end
end

local function forget_consumers(stream)
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local one = {}
    for at = 1, #flat, 2 do one[flat[at]] = flat[at + 1] end
    if one.name ~= me and one.pending == 0 then redis.call('XGROUP', 'DELCONSUMER', stream, group, one.name) end
  end
end

local answer, at = {}, 5
for index = 2, #KEYS, 2 do
  local lease, stream = KEYS[index], KEYS[index + 1]
  local token, partition, look, handled = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  if redis.call('HGET', lease, 'token') ~= token then
    answer[#answer + 1] = {-1, '0-0', 0, {}}
  else
    for number = at, at + handled - 1 do redis.call('XACK', stream, group, ARGV[number]) end
    local entries, tries, state
    if look == '1' then
      entries, tries = oldest_pending(stream, partition)
      if not entries then forget_consumers(stream) end
    end
    if handled > 0 or look == '1' then trim(stream) end
    if entries then
      state = 1
    elseif count == 0 then
      state, tries, entries = 0, 0, {}
    else
      state, tries = 0, 1
      local found = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', count, 'STREAMS', stream, '>')
      entries = found and found[1] and found[1][2] or {}
    end
    local last = '0-0'
    for _, one in ipairs(groups(stream)) do
      if one.name == group then last = one['last-delivered-id'] end
    end
    answer[#answer + 1] = {state, last, tries, entries}
  end
  at = at + handled
end
return answer
"""


class ClusterEvent(Event, gc=False, eq=False):
    """An Event that came through a stream.

    ``shard_id``, ``session_id`` and ``sequence`` together name it for good: an event comes at least once, and a
    handler that must not act twice remembers them. Any thread may read it; treat ``data`` as read-only.
    """

    session_id: str = ""
    #: How many shards the bot has.
    shard_count: int = 1
    #: How often it was handed to a process, this time included.
    tries: int = 1

    def typed(self, decoder: Any) -> "ClusterEvent":
        """The same event, its data decoded by ``decoder``. Raises msgspec.DecodeError. Any thread."""
        data = decoder.decode(self.payload)
        plain = (self.op, self.type, self.sequence, self.payload, self.shard_id, self.size, data)
        return ClusterEvent(*plain, self.session_id, self.shard_count, self.tries)


def read_event(fields: dict[bytes, bytes], tries: int = 1) -> ClusterEvent:
    """The event of a stream's entry."""
    data = fields[b"d"]
    return ClusterEvent(
        0,
        fields[b"t"].decode(),
        int(fields[b"s"]),
        Raw(data),
        int(fields[b"h"]),
        len(data),
        session_id=fields[b"i"].decode(),
        shard_count=int(fields[b"n"]),
        tries=tries,
    )


class Partition:
    """A stream whose lease this worker holds. Its worker thread alone touches it, but for ``lease`` and ``leaving``."""

    def __init__(self, number: int, lease: Lease, stream: str) -> None:
        self.number, self.lease, self.stream = number, lease, stream
        #: Others are to have it: no new event is begun.
        self.leaving = False
        #: There may be entries that were handed out and not acknowledged, here or elsewhere.
        self.look = True
        #: Handled, not acknowledged yet.
        self.handled: list[bytes] = []
        #: Behind this entry nothing has been read.
        self.last = b"0-0"

    @property
    def active(self) -> bool:
        """Whether an event of it may be begun now."""
        return not self.leaving and self.lease.valid


class Given(NamedTuple):
    """What a turn brought for one partition."""

    partition: Partition
    entries: list[tuple[bytes, ClusterEvent]]


class Streams:
    """Takes turns for a worker. One thread; raises RedisError."""

    def __init__(self, client: Any, keys: Keys, consumer: str, tries: int) -> None:
        self._client, self._keys, self._consumer, self._tries = client, keys, consumer, tries
        self._turn = client.register_script(TURN)

    def create_group(self, stream: str) -> None:
        """The group of the workers reads a stream from its beginning."""
        try:
            self._client.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def turn(self, partitions: Sequence[Partition], count: int = TOGETHER) -> list[Given]:
        """Acknowledge what was handled in these partitions, and get what comes next; ``count`` 0: nothing new.

        A partition whose lease is somebody else's gives nothing, and is marked as leaving.
        """
        keys, arguments = [self._keys.poison], [GROUP, self._consumer, count, self._tries]
        sent = []
        for one in partitions:
            keys += [one.lease.key, one.stream]
            handled = list(one.handled)
            sent.append(len(handled))
            arguments += [one.lease.token, one.number, int(one.look and count > 0), len(handled), *handled]
        try:
            answers = self._turn(keys=keys, args=arguments)
        except ResponseError as error:
            if "NOGROUP" in str(error) or "no such key" in str(error):  # Redis came back without its data
                for one in partitions:
                    self.create_group(one.stream)
                    one.handled, one.look = [], True
                return [Given(one, []) for one in partitions]
            raise
        given = []
        for one, acknowledged, (state, last, tries, entries) in zip(partitions, sent, answers, strict=True):
            del one.handled[:acknowledged]
            if state < 0:
                one.leaving = True
            else:
                one.look, one.last = state == 1, last
            given.append(Given(one, [(number, read_event(pairs(flat), tries)) for number, flat in entries]))
        return given

    def wait(self, partitions: Sequence[Partition], seconds: float) -> None:
        """Until something new is in one of these streams. Nothing is taken."""
        self._client.xread({one.stream: one.last for one in partitions}, count=1, block=max(round(seconds * 1000), 1))


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
