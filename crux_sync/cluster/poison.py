"""Events that were set aside: handing them out ended too often with the death of a process."""

from typing import Any, NamedTuple

from .client import connect
from .keys import Keys
from .partitions import ClusterEvent, read_event

#: KEYS: poison, stream. ARGV: entry. Back to the end of its stream. 1: done.
RETRY = """
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return 0 end
local fields = {}
for at = 1, #found[2], 2 do
  local name = found[2][at]
  if name ~= 'partition' and name ~= 'entry' and name ~= 'tries' then
    fields[#fields + 1] = name
    fields[#fields + 1] = found[2][at + 1]
  end
end
redis.call('XADD', KEYS[2], '*', unpack(fields))
return redis.call('XDEL', KEYS[1], ARGV[1])
"""


class Poisoned(NamedTuple):
    """One event that was set aside: its id here, how often it was tried, its partition."""

    id: str
    tries: int
    partition: int
    event: ClusterEvent


class Poison:
    """The events that were set aside. Any thread; raises ConfigurationError for a wrong url or name, RedisError."""

    def __init__(self, redis: str = "redis://127.0.0.1:6379/0", *, name: str = "bot") -> None:
        self._client, self._keys = connect(redis), Keys(name)

    def list(self, most: int = 100) -> "list[Poisoned]":
        """The oldest ``most``."""
        return [self._read(number, fields) for number, fields in self._client.xrange(self._keys.poison, count=most)]

    def _read(self, number: bytes, fields: dict[bytes, bytes]) -> Poisoned:
        tries = int(fields[b"tries"])
        return Poisoned(number.decode(), tries, int(fields[b"partition"]), read_event(fields, tries))

    def retry(self, number: str) -> bool:
        """Put one back at the end of its stream, with all its tries before it; whether there was one."""
        found: Any = self._client.xrange(self._keys.poison, number, number)
        if not found:
            return False
        stream = self._keys.events(int(found[0][1][b"partition"]))
        return bool(self._client.eval(RETRY, 2, self._keys.poison, stream, number))

    def drop(self, number: str) -> bool:
        """Forget one; whether there was one."""
        return bool(self._client.xdel(self._keys.poison, number))

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()
