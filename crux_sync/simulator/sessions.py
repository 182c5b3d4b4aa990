"""Sessions on the server's side: identity, numbered events, the replay log (protocol, section 17.5). Pure."""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ..intents import Intents

if TYPE_CHECKING:
    from .core import Peer

#: Which of the client's and our own closes end a session (6.6, 7).
CLIENT_ENDS = frozenset({1000, 1001})
SERVER_ENDS = frozenset({4001, 4003, 4004, 4005, 4007, 4009, 4010, 4011, 4012, 4013, 4014})


class Logged(NamedTuple):
    """A dispatch in the replay log."""

    sequence: int
    time: float
    payload: bytes


@dataclass(eq=False)
class ServerSession:
    """One session. ``events`` is the replay log; ``sequence`` the last number given out. Read it from any thread."""

    session_id: str
    token: str
    shard_id: int
    shard_count: int
    intents: Intents
    large_threshold: int = 50
    sequence: int = 0
    events: deque[Logged] = field(default_factory=deque, repr=False)
    #: The connection it is on; None while detached, since ``detached_at``.
    peer: "Peer | None" = field(default=None, repr=False)
    detached_at: float | None = None
    ended: bool = False
    #: Ended because nobody resumed it in time.
    expired: bool = False
    #: Events that were in the log and not confirmed by a heartbeat when the session ended.
    unrecoverable: int = 0
    #: The last sequence that a heartbeat or Resume of the client named.
    confirmed: int = 0

    def append(self, name: str, data: bytes, now: float) -> bytes:
        """Number a dispatch, log it, and return its payload."""
        self.sequence += 1
        payload = b'{"t":"%s","s":%d,"op":0,"d":%s}' % (name.encode(), self.sequence, data)
        self.events.append(Logged(self.sequence, now, payload))
        return payload

    def trim(self, count: int, age: float, now: float, *, by_heartbeats: bool) -> None:
        """Forget what the limits say: Discord's buffer is finite."""
        events = self.events
        while events and (
            len(events) > count
            or now - events[0].time > age
            or (by_heartbeats and events[0].sequence <= self.confirmed)
        ):
            events.popleft()

    @property
    def oldest(self) -> int:
        """The first sequence that can still be replayed."""
        return self.events[0].sequence if self.events else self.sequence + 1

    def after(self, sequence: int) -> Iterator[bytes]:
        """Payloads of the log beyond ``sequence``."""
        return (logged.payload for logged in self.events if logged.sequence > sequence)

    def skip(self, count: int, now: float) -> None:
        """Leave numbers out."""
        self.sequence += count


class SessionStore:
    """All sessions by id. Expired ones are dropped when looked for, and by ``expire``."""

    def __init__(self, seed: int, expiry: float, log_count: int, log_age: float, trim_by_heartbeats: bool) -> None:
        self.expiry = expiry
        self.log_count = log_count
        self.log_age = log_age
        self.trim_by_heartbeats = trim_by_heartbeats
        self.alive: dict[str, ServerSession] = {}
        #: The same by shard count and shard id, for dispatching to few of many.
        self._routes: dict[int, dict[int, list[ServerSession]]] = {}
        #: Every session there was, in order.
        self.history: list[ServerSession] = []
        self._random = random.Random(seed)

    def create(self, token: str, shard: tuple[int, int], intents: Intents, large_threshold: int) -> ServerSession:
        session_id = f"{self._random.getrandbits(128):032x}"
        session = ServerSession(session_id, token, *shard, intents, large_threshold)
        self.alive[session_id] = session
        self._routes.setdefault(shard[1], {}).setdefault(shard[0], []).append(session)
        self.history.append(session)
        return session

    def find(self, session_id: object, now: float) -> ServerSession | None:
        """The session, unless it has ended or expired."""
        session = self.alive.get(session_id) if isinstance(session_id, str) else None
        if session is not None and self.is_expired(session, now):
            self.drop_expired(session)
            return None
        return session

    def expire(self, now: float) -> None:
        """Drop the sessions that nobody came back for: they would go on filling their logs."""
        for session in [one for one in self.alive.values() if self.is_expired(one, now)]:
            self.drop_expired(session)

    def is_expired(self, session: ServerSession, now: float) -> bool:
        return session.detached_at is not None and now - session.detached_at > self.expiry

    def drop_expired(self, session: ServerSession) -> None:
        self.end(session)
        session.expired = True

    def trim(self, session: ServerSession, now: float) -> None:
        session.trim(self.log_count, self.log_age, now, by_heartbeats=self.trim_by_heartbeats)

    def detach(self, session: ServerSession, now: float) -> None:
        session.peer = None
        session.detached_at = now

    def end(self, session: ServerSession) -> None:
        """The session is gone; what it had not delivered is unrecoverable."""
        if self.alive.pop(session.session_id, None) is not None:
            self._routes[session.shard_count][session.shard_id].remove(session)
            session.ended = True
            session.peer = None
            session.unrecoverable = session.sequence - session.confirmed

    def of_guild(self, guild_id: int | None) -> list[ServerSession]:
        """The sessions whose shard a guild is on; without a guild, those of shard 0."""
        found: list[ServerSession] = []
        for shard_count, shards in self._routes.items():
            found += shards.get(0 if guild_id is None else (guild_id >> 22) % shard_count, ())
        return found

    def of_recorded(self, guild_id: int | None, shard_id: int, shard_count: int) -> list[ServerSession]:
        """As ``of_guild``; but where the shard count is that of a recording, the shard is the recorded one too."""
        found: list[ServerSession] = []
        for count, shards in self._routes.items():
            by_guild = 0 if guild_id is None else (guild_id >> 22) % count
            found += shards.get(shard_id if count == shard_count else by_guild, ())
        return found

    def of_shard(self, shard_id: int) -> list[ServerSession]:
        return [session for session in self.alive.values() if session.shard_id == shard_id]
