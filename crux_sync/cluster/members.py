"""Who is there: processes that have given a sign of life lately."""

from typing import Any

#: KEYS: members. ARGV: name, milliseconds after which one is gone. Every member, in the order of names.
BEAT = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
local members = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(members)
return members
"""


class Membership:
    """One process among its like; one that gives no sign for ``gone_after`` seconds is gone: less than its leases last.

    Used by one thread; raises RedisError.
    """

    def __init__(self, client: Any, key: str, name: str, gone_after: float) -> None:
        self.name = name
        self._gone_after = gone_after
        self._client, self._key = client, key

    def beat(self) -> list[str]:
        """Give a sign of life; the names of all who are there, this one among them, sorted."""
        found = self._client.eval(BEAT, 1, self._key, self.name, round(self._gone_after * 1000))
        return [name.decode() for name in found]

    def leave(self) -> None:
        """Be gone at once."""
        self._client.zrem(self._key, self.name)
