"""Identify buckets and the daily budget shared by every process of a bot (protocol, sections 8.1 and 8.3)."""

import threading
import uuid
from typing import Any

from ..limits import GUARD, IDENTIFY_PERIOD, PERMIT_DEADLINE
from .client import PASSING, RedisTimeout, patient
from .keys import Keys

#: Somebody in the queue who has not asked for so long is gone, seconds; who waits asks more often.
GONE_AFTER = 3.0
ASK_EVERY = 0.5

#: The last of the queue that has not been seen for too long is left out; the first of the rest may go when the bucket
#: is free and the ledger has one to spare. Times are Redis's own, in milliseconds.
#:
#: KEYS: waiting, last seen, bucket, ledger. ARGV: ticket, permit's milliseconds, gone after.
#: Returns {granted, milliseconds to wait}.
ASK = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], 'NX', t[1] * 1000000 + t[2], ARGV[1])  -- two may come in one millisecond
redis.call('HSET', KEYS[2], ARGV[1], now)
local first
while true do
  first = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  if first == ARGV[1] then break end
  local seen = tonumber(redis.call('HGET', KEYS[2], first) or 0)
  if now - seen <= tonumber(ARGV[3]) then return {0, -1} end
  redis.call('ZREM', KEYS[1], first)
  redis.call('HDEL', KEYS[2], first)
end
local taken = redis.call('PTTL', KEYS[3])
if taken > 0 and redis.call('GET', KEYS[3]) ~= ARGV[1] then return {0, taken} end

local ledger = redis.call('HMGET', KEYS[4], 'remaining', 'granted', 'resets', 'last', 'total')
if ledger[1] then
  local remaining, granted, resets = tonumber(ledger[1]), tonumber(ledger[2]), tonumber(ledger[3])
  local last, total = tonumber(ledger[4]), tonumber(ledger[5])
  if now >= resets then
    remaining, granted, resets = total, total, now + 86400000
    redis.call('HSET', KEYS[4], 'remaining', remaining, 'granted', granted, 'resets', resets)
  end
  if remaining <= 1 then return {0, resets - now} end
  if remaining <= granted / 2 then
    local due = last + math.ceil((resets - now) / (remaining - 1))
    if due > now then return {0, due - now} end
  end
  redis.call('HSET', KEYS[4], 'remaining', remaining - 1, 'last', now)
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
return {1, 0}
"""

#: The bucket is free again one period after the Identify. KEYS: bucket. ARGV: ticket, milliseconds.
SENT = """
local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] then redis.call('SET', KEYS[1], 'sent', 'PX', ARGV[2]) end
"""

#: KEYS: waiting, last seen, bucket, ledger. ARGV: ticket, 1 when a granted identify was not sent.
RELEASE = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
if ARGV[2] == '1' and redis.call('EXISTS', KEYS[4]) == 1 then redis.call('HINCRBY', KEYS[4], 'remaining', 1) end
"""

#: What Discord says is right, but for identifies that are granted and not sent: the lesser counts within a window.
#: KEYS: ledger. ARGV: total, remaining, milliseconds to the reset.
RENEW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local known = redis.call('HMGET', KEYS[1], 'remaining', 'resets')
local remaining = tonumber(ARGV[2])
if known[1] and now < tonumber(known[2]) then
  if tonumber(known[1]) < remaining then return tonumber(known[1]) end
  redis.call('HSET', KEYS[1], 'remaining', remaining)
  return remaining
end
redis.call('HSET', KEYS[1], 'total', ARGV[1], 'remaining', remaining, 'granted', remaining,
  'resets', now + tonumber(ARGV[3]), 'last', 0)
return remaining
"""


class RedisIdentifyLimiter:
    """An IdentifyLimiter for all processes of a bot: one identify in 5 s for each bucket, in order of asking.

    A process that dies in the queue is passed over after three seconds, one that dies with a permit loses it with the
    permit's deadline. While Redis is away nobody identifies. Any thread.
    """

    def __init__(self, client: Any, keys: Keys, max_concurrency: int = 1, *, period: float = IDENTIFY_PERIOD) -> None:
        self.max_concurrency = max_concurrency
        self._client, self._keys, self._period = client, keys, period

    def __repr__(self) -> str:
        return f"<RedisIdentifyLimiter {self._keys.prefix} {self.max_concurrency} at a time>"

    def renew(self, total: int, remaining: int, reset_after: float) -> int:
        """What ``/gateway/bot`` says now (``reset_after`` in seconds); how many are left. Raises RedisError."""
        milliseconds = round((reset_after or 86_400.0) * 1000)
        return int(self._client.eval(RENEW, 1, self._keys.ledger, total, remaining, milliseconds))

    def enqueue(self, shard_id: int) -> "RedisTicket":
        """A ticket; its place in the queue is taken at the first ``wait``."""
        return RedisTicket(self._client, self._keys, shard_id % self.max_concurrency, self._period)


class RedisTicket:
    """One identify. Used by one thread, ``cancel`` by any."""

    def __init__(self, client: Any, keys: Keys, bucket: int, period: float) -> None:
        self.id = uuid.uuid4().hex
        self._client, self._period = client, period
        waiting = keys.waiting(bucket)
        self._keys = (waiting, f"{waiting}:seen", keys.bucket(bucket), keys.ledger)
        self._woken = threading.Event()
        self._granted = self._sent = self._released = self._asked = False

    def wait(self, cancelled: threading.Event, timeout: float | None = None) -> bool:
        """Block until the identify may be sent. False: cancelled, or ``timeout`` seconds are over."""
        left = timeout
        while not cancelled.is_set() and not self._released:
            answer = patient(self._ask, cancelled)
            if answer is None:
                return False
            granted, milliseconds = answer
            if granted:
                self._granted = True
                return True
            pause = min(max(milliseconds / 1000, 0.005), ASK_EVERY) if milliseconds >= 0 else ASK_EVERY / 5
            if left is not None:
                if left <= 0:
                    return False
                pause = min(pause, left)
                left -= pause
            self._woken.wait(pause)
        return False

    def _ask(self) -> tuple[int, int]:
        self._asked = True
        permit, gone = round(PERMIT_DEADLINE * 1000), round(GONE_AFTER * 1000)
        granted, milliseconds = self._client.eval(ASK, 4, *self._keys, self.id, permit, gone)
        return granted, milliseconds

    def sent(self) -> None:
        """The Identify has just been sent: the bucket is free again a period from now."""
        self._sent = True
        milliseconds = round((self._period + GUARD) * 1000)
        self._try(lambda: self._client.eval(SENT, 1, self._keys[2], self.id, milliseconds))

    def release(self) -> None:
        """Done: READY, a failure, or given up. Idempotent."""
        if self._released:
            return
        self._released = True
        if self._asked:
            unused = int(self._granted and not self._sent)
            self._try(lambda: self._client.eval(RELEASE, 4, *self._keys, self.id, unused))

    def cancel(self) -> None:
        """Wake ``wait``: its flag was set."""
        self._woken.set()

    def _try(self, work: Any) -> None:
        """Once, and once more where Redis had restarted: a permit that cannot be given back ends with its deadline.

        Not after a time-out: the shard's thread has events to read.
        """
        for _ in range(2):
            try:
                work()
            except RedisTimeout:
                return
            except PASSING:
                continue
            return
