"""Sessions in Redis: what lets another process resume a shard where this one stopped."""

from collections.abc import Mapping
from typing import Any

from ..sessions import Identity, StoredSession
from .client import ResponseError
from .keys import Keys
from .leases import Lease

#: A write within a session never moves its sequence back; a new session begins where it says. Who writes with an older
#: lease than the last writer is refused. KEYS: session. ARGV: token, session id, sequence, then field and value pairs.
SAVE = """
local known = redis.call('HMGET', KEYS[1], 'token', 'session_id', 'sequence')
if known[1] and tonumber(known[1]) > tonumber(ARGV[1]) then return redis.error_reply('FENCED by a newer lease') end
if known[2] == ARGV[2] and known[3] and tonumber(known[3]) >= tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], 'token', ARGV[1])
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'session_id', ARGV[2], 'sequence', ARGV[3], unpack(ARGV, 4))
return 1
"""

#: The session is over. KEYS: session. ARGV: token.
FORGET = """
local token = redis.call('HGET', KEYS[1], 'token')
if token and tonumber(token) > tonumber(ARGV[1]) then return redis.error_reply('FENCED by a newer lease') end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'token', ARGV[1])
return 1
"""


class RedisSessionStore:
    """A SessionStore for shards whose leases this process holds.

    Writes of a process that has lost its lease, even if it does not know yet, are refused by Redis. Called by one
    thread at a time; raises RedisError, which the gateway logs and tries again a second later.
    """

    def __init__(self, client: Any, keys: Keys, leases: Mapping[int, Lease]) -> None:
        self._client, self._keys, self._leases = client, keys, leases
        self._identity: Identity | None = None

    def open(self, identity: Identity) -> Mapping[int, StoredSession]:
        """The sessions of this identity, of the shards whose leases are held."""
        self._identity = identity
        found = {shard_id: self._load(shard_id, identity) for shard_id in self._leases}
        return {shard_id: one for shard_id, one in found.items() if one is not None}

    def _load(self, shard_id: int, identity: Identity) -> StoredSession | None:
        fields = {
            name.decode(): value.decode() for name, value in self._client.hgetall(self._keys.session(shard_id)).items()
        }
        if fields.get("identity") != describe(identity):
            return None
        return StoredSession(
            fields["session_id"],
            fields.get("resume_url"),
            int(fields["sequence"]),
            fields.get("user_id"),
            fields.get("application_id"),
        )

    def save(self, sessions: Mapping[int, StoredSession | None]) -> None:
        """Keep these; None: the session of that shard is over. Raises PermissionError without the lease."""
        assert self._identity is not None
        for shard_id, session in sessions.items():
            lease = self._leases[shard_id]
            if not lease.valid:
                raise PermissionError(f"the lease of shard {shard_id} is over")
            try:
                self._save(self._keys.session(shard_id), lease.token, session, describe(self._identity))
            except ResponseError as error:
                if "FENCED" in str(error):
                    raise PermissionError(f"shard {shard_id} has a newer owner") from error
                raise

    def _save(self, key: str, token: int, session: StoredSession | None, identity: str) -> None:
        if session is None:
            self._client.eval(FORGET, 1, key, token)
            return
        optional = {
            "resume_url": session.resume_url,
            "user_id": session.user_id,
            "application_id": session.application_id,
        }
        pairs = [text for name, value in optional.items() if value is not None for text in (name, value)]
        self._client.eval(SAVE, 1, key, token, session.session_id, session.sequence, "identity", identity, *pairs)

    def close(self) -> None:
        """Nothing to let go of: the lease does that."""


def describe(identity: Identity) -> str:
    """A text that differs for another token, shard count or intents, and gives nothing away."""
    return f"{identity.token_digest}/{identity.shard_count}/{identity.intents}"
