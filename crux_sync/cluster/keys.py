"""Names of what the processes of one bot share in Redis.

All carry one hash tag, so that a script may touch several of them on a Redis Cluster too. Nothing holds the token.
"""

import re
import zlib

from ..errors import ConfigurationError

#: Streams that events are dealt to, unless the first process of a bot says otherwise.
PARTITIONS = 16

#: The consumer group of all workers.
GROUP = "workers"


class Keys:
    """The keys of one bot. ``name``: what its processes call it, the same in each."""

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,64}", name):
            raise ConfigurationError(f"name={name!r} must be 1 to 64 letters, digits, '_', '.' or '-'")
        self.prefix = f"crux:{{{name}}}:"
        #: Hash: what all processes must agree on.
        self.config = self.prefix + "config"
        #: Sorted set: gateway processes by the time of their last sign of life, milliseconds.
        self.gateways = self.prefix + "gateways"
        #: The same of workers.
        self.workers = self.prefix + "workers"
        #: Counter: each lease gets a greater token than any before it.
        self.tokens = self.prefix + "tokens"
        #: Hash: what is left of the day's identifies.
        self.ledger = self.prefix + "ledger"
        #: Stream: entries that were tried too often.
        self.poison = self.prefix + "poison"

    def shard(self, shard_id: int) -> str:
        """The lease of a shard: hash of owner, token and, as the key's time to live, its end."""
        return f"{self.prefix}shard:{shard_id}"

    def partition(self, number: int) -> str:
        """The lease of a partition."""
        return f"{self.prefix}partition:{number}"

    def session(self, shard_id: int) -> str:
        """Hash: the stored session of a shard."""
        return f"{self.prefix}session:{shard_id}"

    def published(self, shard_id: int) -> str:
        """Hash: session and sequence of the last event of a shard that is in a stream."""
        return f"{self.prefix}published:{shard_id}"

    def events(self, number: int) -> str:
        """The stream of a partition."""
        return f"{self.prefix}events:{number}"

    def commands(self, shard_id: int) -> str:
        """The stream of commands for a shard, read by whoever has its lease."""
        return f"{self.prefix}commands:{shard_id}"

    def reply(self, name: str) -> str:
        """The stream of the answers to one command."""
        return f"{self.prefix}reply:{name}"

    def waiting(self, bucket: int) -> str:
        """Sorted set: who waits to identify in a bucket, in order of arrival."""
        return f"{self.prefix}waiting:{bucket}"

    def bucket(self, bucket: int) -> str:
        """The permit of an identify bucket: who holds it, until when."""
        return f"{self.prefix}bucket:{bucket}"


def partition_of(guild_id: int | None, shard_id: int, partitions: int) -> int:
    """The partition of an event: that of its guild, else that of its shard."""
    name = f"shard{shard_id}" if guild_id is None else str(guild_id)
    return zlib.crc32(name.encode()) % partitions
