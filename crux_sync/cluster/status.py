"""What is going on in a cluster, as read from Redis."""

from typing import Any, Self

from .client import ResponseError, connect
from .config import agreed
from .keys import GROUP, Keys


class Observer:
    """Looks at a cluster and changes nothing. Any thread; raises RedisError."""

    def __init__(self, redis: str = "redis://127.0.0.1:6379/0", *, name: str = "bot") -> None:
        self._client, self._keys = connect(redis), Keys(name)

    def look(self) -> dict[str, Any]:
        """Gateways, workers, shards with owner and handled sequence, partitions with owner and lag, identifies."""
        client, keys = self._client, self._keys
        left = client.hget(keys.ledger, "remaining")
        return {
            "gateways": [name.decode() for name in client.zrange(keys.gateways, 0, -1)],
            "workers": [name.decode() for name in client.zrange(keys.workers, 0, -1)],
            "identifies_left": None if left is None else int(left),
            "poison": client.xlen(keys.poison),
            "shards": [self._shard(shard_id) for shard_id in range(agreed(client, keys, "shards") or 0)],
            "partitions": [self._partition(number) for number in range(agreed(client, keys, "partitions") or 0)],
        }

    def _shard(self, shard_id: int) -> dict[str, Any]:
        handled = self._client.hget(self._keys.session(shard_id), "sequence")
        owner = self._client.hget(self._keys.shard(shard_id), "owner")
        return {"shard": shard_id, "owner": owner and owner.decode(), "handled": handled and int(handled)}

    def _partition(self, number: int) -> dict[str, Any]:
        """``waiting``: entries that are not acknowledged, ``pending``: those of them that a worker has begun."""
        stream = self._keys.events(number)
        owner = self._client.hget(self._keys.partition(number), "owner")
        try:
            pending = self._client.xpending(stream, GROUP)["pending"]
        except ResponseError:  # no worker has been here yet
            pending = 0
        waiting = self._client.xlen(stream)
        return {"partition": number, "owner": owner and owner.decode(), "waiting": waiting, "pending": pending}

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
