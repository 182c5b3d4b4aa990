"""Leases in Redis: who may work on a shard or a partition, and until when.

Discord knows no fencing token, so a holder must have stopped before anyone else may start. The holder counts on its
own monotonic clock, from before it asked, and takes ``MARGIN`` off; Redis counts from when it answered. A process that
was stopped for a while finds on that clock that its lease is over before it does anything else.
"""

import time
from collections.abc import Callable
from typing import Any

#: How long a lease lasts without being renewed, seconds, and by how much earlier its holder stops: long enough for half
#: a minute without Redis, short enough for another process to come while Discord still has everything to replay.
DURATION = 45.0
MARGIN = 5.0

#: KEYS: lease, counter of tokens. ARGV: owner, milliseconds. The token, or 0: somebody else has it.
ACQUIRE = """
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then return 0 end
local token = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', token)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return token
"""

#: KEYS: lease. ARGV: token, milliseconds. 1: renewed.
RENEW = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""

#: KEYS: lease. ARGV: token.
RELEASE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class Lease:
    """One lease, held or not. ``valid`` and ``token`` may be read by any thread; one thread renews."""

    def __init__(
        self,
        client: Any,
        key: str,
        tokens: str,
        owner: str,
        *,
        duration: float = DURATION,
        margin: float = MARGIN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = key
        #: Greater than that of any lease before it; scripts refuse what comes with an older one.
        self.token = 0
        self._client, self._tokens, self._owner = client, tokens, owner
        self._duration, self._margin, self._clock = duration, margin, clock
        self._ends = 0.0

    def __repr__(self) -> str:
        return f"<Lease {self.key} {f'held, token {self.token}' if self.valid else 'not held'}>"

    @property
    def valid(self) -> bool:
        """Whether its holder may act now. Never asks Redis."""
        return self.token != 0 and self._clock() < self._ends

    @property
    def remaining(self) -> float:
        """Seconds until its holder must have stopped."""
        return max(self._ends - self._clock(), 0.0) if self.token else 0.0

    def acquire(self) -> bool:
        """Ask for it once; whether it is ours. Raises RedisError."""
        asked = self._clock()
        token = int(self._client.eval(ACQUIRE, 2, self.key, self._tokens, self._owner, self._milliseconds))
        if token:
            self.token, self._ends = token, asked + self._duration - self._margin
        return bool(token)

    def renew(self) -> bool:
        """Lengthen it; False: it is over, for good. Raises RedisError, which leaves it as it was."""
        asked = self._clock()
        if not self.valid:
            return False
        if not self._client.eval(RENEW, 1, self.key, self.token, self._milliseconds):
            self.token = 0
            return False
        self._ends = asked + self._duration - self._margin
        return True

    def release(self) -> None:
        """Give it back, so that others need not wait for its end. Raises RedisError."""
        token, self.token = self.token, 0
        if token:
            self._client.eval(RELEASE, 1, self.key, token)

    @property
    def _milliseconds(self) -> int:
        return round(self._duration * 1000)


def share(members: list[str], me: str, total: int) -> int:
    """How many of ``total`` things fall to ``me`` when they are spread evenly over ``members``, in their order."""
    if me not in members:
        return 0
    each, rest = divmod(total, len(members))
    return each + (sorted(members).index(me) < rest)
