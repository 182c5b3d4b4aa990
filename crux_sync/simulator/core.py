"""The rules of the gateway as a pure core: messages and a clock in, outputs out (protocol, section 17).

``Core`` is one Discord; a ``Peer`` one connection to it. No sockets and no threads: the server holds one lock around
every call and performs the outputs. Each breach of a rule closes as Discord would and is recorded by name.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from ..close_codes import CLOSE_POLICY
from ..events import UNREADABLE
from ..intents import ALL, PRIVILEGED, Intents
from ..opcodes import Opcode
from .commands import COMMANDS, check_command
from .routing import SHARD_ZERO, blank_content, guild_of, is_blanked, is_wanted
from .sessions import CLIENT_ENDS, SERVER_ENDS, ServerSession, SessionStore
from .world import World

LARGEST_PAYLOAD = 4096
SENDS, SEND_PERIOD = 120, 60.0
PRESENCES, PRESENCE_PERIOD = 5, 20.0
GUILDS_PER_SHARD = 2500

REASONS = {
    4001: "Unknown opcode.",
    4002: "Error while decoding payload.",
    4003: "Not authenticated.",
    4004: "Authentication failed.",
    4005: "Already authenticated.",
    4007: "Invalid seq.",
    4008: "Rate limited.",
    4009: "Session timed out.",
    4010: "Invalid shard.",
    4011: "Sharding required.",
    4012: "Invalid API version.",
    4013: "Invalid intent(s).",
    4014: "Disallowed intent(s).",
}


@dataclass
class Settings:
    """How this Discord behaves. Times in seconds. To be set before it starts, on any thread."""

    token: str = "test"
    shards: int = 1
    max_concurrency: int = 1
    heartbeat_interval: float = 41.25
    #: How late a heartbeat may be, as a factor of the interval, and the code that ends the connection then.
    heartbeat_tolerance: float = 1.5
    late_heartbeat_code: int = 4000
    identify_period: float = 5.0
    total: int = 1000
    remaining: int = 1000
    reset_after: float = 86_400.0
    granted_intents: int = int(PRIVILEGED)
    #: Large bots: shard counts must be a multiple of this (section 9).
    assigned_shards: int = 1
    session_expiry: float = 300.0
    log_count: int = 100_000
    log_age: float = 600.0
    trim_by_heartbeats: bool = False
    #: Whether a shard may have one connection at a time. Discord allows more; who has shards under leases does not.
    one_owner: bool = False
    guilds_per_shard: int = 2
    members: int = 12
    seed: int = 1


class Send(NamedTuple):
    """Send a payload."""

    peer: "Peer"
    payload: bytes


class Close(NamedTuple):
    """Send a close frame (code 0: without a code) and end the connection."""

    peer: "Peer"
    code: int
    reason: str


Output = Send | Close


class Breach(Exception):
    """A rule was broken: its name, and the close code it earns."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(name)
        self.name = name
        self.code = code


@dataclass(eq=False)
class Peer:
    """One connection, as the core sees it."""

    opened: float
    compress: str | None = None
    session: ServerSession | None = None
    #: "hello", then "ready"; "draining" after op 7; "superseded": a newer one has its shard (``one_owner``); "closed".
    state: str = "hello"
    last_beat: float = 0.0
    beats: int = 0
    sends: deque[float] = field(default_factory=deque)
    presences: deque[float] = field(default_factory=deque)
    #: Faults of this connection.
    swallow_acks: bool = False
    payload_compression: bool = False

    @property
    def shard_id(self) -> int | None:
        return self.session.shard_id if self.session is not None else None


class Core:
    """One Discord. Every method returns what is to be sent, in order."""

    def __init__(self, settings: Settings, resume_url: Callable[[], str]) -> None:
        self.settings = settings
        self.resume_url = resume_url
        self.world = World(
            settings.seed, settings.shards, settings.guilds_per_shard, settings.members, settings.granted_intents
        )
        self.store = SessionStore(
            settings.seed, settings.session_expiry, settings.log_count, settings.log_age, settings.trim_by_heartbeats
        )
        self.peers: list[Peer] = []
        self.violations: list[str] = []
        #: (time, shard id, session id) of every Identify and Resume that succeeded.
        self.identifies: list[tuple[float, int, str]] = []
        self.resumes: list[tuple[float, int, str]] = []
        self.remaining = settings.remaining
        self.resets: float | None = None
        self.token_revoked = False
        self.connections = 0
        self.all_members: dict[str, float] = {}
        #: Faults for connections to come: seconds before Hello and READY, None for never; payloads instead of Hello.
        self.hello_delay: float | None = 0.0
        self.ready_delay: float | None = 0.0
        self.before_hello: list[bytes] = []
        self.answer_resumes: list[str] = []
        self.interrupt_replay: int | None = None
        self.last_identify: dict[int, float] = {}

    # ---------------------------------------------------------------- connections

    def connect(self, query: dict[str, str], now: float) -> tuple[Peer, list[Output]]:
        """A connection was upgraded."""
        peer = Peer(now, query.get("compress"), last_beat=now)
        self.peers.append(peer)
        self.connections += 1
        if query.get("v") not in ("9", "10"):
            return peer, self.breach(peer, Breach("invalid_version", 4012), now)
        if query.get("encoding", "json") != "json" or peer.compress not in (None, "zlib-stream", "zstd-stream"):
            return peer, self.breach(peer, Breach("invalid_encoding", 4002), now)
        outputs: list[Output] = [Send(peer, payload) for payload in self.before_hello]
        self.before_hello = []
        return peer, outputs

    def hello(self, peer: Peer) -> list[Output]:
        interval = round(self.settings.heartbeat_interval * 1000)
        return [Send(peer, control(Opcode.HELLO, b'{"heartbeat_interval":%d}' % interval))]

    def disconnected(self, peer: Peer, code: int | None, now: float) -> None:
        """The connection is gone; ``code``: of the client's close frame, None without."""
        if peer.state == "closed":
            return
        peer.state = "closed"
        self.peers.remove(peer)
        session, peer.session = peer.session, None
        if session is None or session.peer is not peer:
            return
        if code in CLIENT_ENDS:
            self.store.end(session)
        else:
            self.store.detach(session, now)

    def receive(self, peer: Peer, message: bytes, now: float, *, text: bool = True) -> list[Output]:
        """A message from the client, through the checks of 17.3 in their order."""
        if peer.state == "closed":
            return []
        try:
            if len(message) > LARGEST_PAYLOAD:
                raise Breach("payload_too_large", 4002)
            op, data = decode(message, text)
            peer.sends.append(now)
            while peer.sends[0] <= now - SEND_PERIOD:
                peer.sends.popleft()
            if len(peer.sends) > SENDS:
                raise Breach("rate_limited", 4008)
            handler = HANDLERS.get(op)
            if handler is None:
                raise Breach("unknown_opcode", 4001)
            if peer.state == "superseded":
                raise Breach("shard_owned_twice", 4000)
            authenticated = peer.session is not None
            if not authenticated and op not in (Opcode.HEARTBEAT, Opcode.IDENTIFY, Opcode.RESUME):
                raise Breach("not_authenticated", 4003)
            if authenticated and op in (Opcode.IDENTIFY, Opcode.RESUME):
                raise Breach("already_authenticated", 4005)
            return handler(self, peer, data, now)
        except Breach as breach:
            return self.breach(peer, breach, now)

    def breach(self, peer: Peer, breach: Breach, now: float) -> list[Output]:
        self.violations.append(breach.name)
        return self.close(peer, breach.code, REASONS.get(breach.code, ""), now)

    def close(self, peer: Peer, code: int, reason: str, now: float) -> list[Output]:
        """Close from our side; the session goes with the codes that end it."""
        session = peer.session
        self.disconnected(peer, None, now)
        if session is not None and code in SERVER_ENDS:
            self.store.end(session)
        return [Close(peer, code, reason)]

    def tick(self, now: float) -> list[Output]:
        """Close who has not sent a heartbeat for too long (17.7), and drop expired sessions."""
        self.store.expire(now)
        limit = self.settings.heartbeat_interval * self.settings.heartbeat_tolerance
        late = [peer for peer in self.peers if now - peer.last_beat > limit]
        outputs: list[Output] = []
        for peer in late:
            if peer.state != "superseded":
                self.violations.append("heartbeat_late")
            outputs += self.close(peer, self.settings.late_heartbeat_code, "", now)
        return outputs

    # ---------------------------------------------------------------- opcodes

    def on_heartbeat(self, peer: Peer, data: Any, now: float) -> list[Output]:
        if data is not None and not is_integer(data):
            raise Breach("invalid_payload", 4001)
        peer.last_beat = now
        peer.beats += 1
        if peer.session is not None and data is not None:
            peer.session.confirmed = max(peer.session.confirmed, min(data, peer.session.sequence))
            self.store.trim(peer.session, now)
        return [] if peer.swallow_acks else [Send(peer, control(Opcode.HEARTBEAT_ACK))]

    def on_identify(self, peer: Peer, data: Any, now: float) -> list[Output]:
        """The checks of 17.4 in their order, then READY and the guilds."""
        settings = self.settings
        if not isinstance(data, dict) or not isinstance(data.get("properties"), dict):
            raise Breach("invalid_payload", 4001)
        self.check_token(data.get("token"))
        shard = self.check_shard(data.get("shard", [0, 1]))
        intents = self.check_intents(data)
        threshold = data.get("large_threshold", 50)
        if not is_integer(threshold) or not 50 <= threshold <= 250:
            raise Breach("invalid_payload", 4001)
        # Looser than op 3: libraries in use leave fields out here, and are let in.
        if not isinstance(data.get("presence"), dict | None):
            raise Breach("invalid_payload", 4001)
        self.spend_identify(now)
        bucket = shard[0] % settings.max_concurrency
        since = now - self.last_identify.get(bucket, -math.inf)
        if since < settings.identify_period:
            self.violations.append("identify_concurrency")
            return [Send(peer, control(Opcode.INVALID_SESSION, b"false"))]
        self.last_identify[bucket] = now
        self.supersede(shard)
        session = self.store.create(data["token"], shard, intents, threshold)
        session.peer, peer.session, peer.state = peer, session, "ready"
        peer.payload_compression = data.get("compress") is True and peer.compress is None
        self.identifies.append((now, shard[0], session.session_id))
        ready = self.world.ready(session, self.resume_url(), with_shard="shard" in data)
        outputs: list[Output] = [self.log(session, "READY", ready, now)]
        for guild in self.world.guilds_of(*shard):
            if intents & Intents.GUILDS:
                outputs.append(self.log(session, "GUILD_CREATE", self.world.guild_create(guild, session), now))
        return outputs

    def check_token(self, token: Any) -> None:
        if not isinstance(token, str) or token != self.settings.token or self.token_revoked:
            raise Breach("authentication_failed", 4004)

    def check_shard(self, shard: Any) -> tuple[int, int]:
        if (
            not isinstance(shard, list)
            or len(shard) != 2
            or not all(is_integer(number) for number in shard)
            or not 0 <= shard[0] < shard[1]
            or shard[1] % self.settings.assigned_shards
        ):
            raise Breach("invalid_shard", 4010)
        if len(self.world.guilds_of(*shard)) > GUILDS_PER_SHARD:
            raise Breach("sharding_required", 4011)
        return shard[0], shard[1]

    def check_intents(self, data: dict[str, Any]) -> Intents:
        value: Any = data.get("intents")
        if not is_integer(value) or value < 0 or value & ~ALL:
            raise Breach("invalid_intents", 4013)
        if value & PRIVILEGED & ~self.settings.granted_intents:
            raise Breach("disallowed_intents", 4014)
        return Intents(value)

    def spend_identify(self, now: float) -> None:
        """Count a session start; at exhaustion everything ends (8.3)."""
        self.renew(now)
        if self.remaining <= 0:
            self.token_revoked = True
            for session in list(self.store.alive.values()):
                self.store.end(session)
            raise Breach("session_start_limit", 4004)
        self.remaining -= 1
        if self.resets is None:
            self.resets = now + self.settings.reset_after

    def renew(self, now: float) -> None:
        if self.resets is not None and now >= self.resets:
            self.remaining, self.resets = self.settings.total, None

    def on_resume(self, peer: Peer, data: Any, now: float) -> list[Output]:
        """The checks of 17.6 in their order, then the replay and RESUMED."""
        if not isinstance(data, dict) or not is_integer(data.get("seq")):
            raise Breach("invalid_payload", 4001)
        if self.answer_resumes:
            return [Send(peer, control(Opcode.INVALID_SESSION, self.answer_resumes.pop(0).encode()))]
        sequence: int = data["seq"]
        session = self.store.find(data.get("session_id"), now)
        if session is None or session.token != data.get("token") or self.token_revoked:
            return [Send(peer, control(Opcode.INVALID_SESSION, b"false"))]
        if sequence > session.sequence:
            self.store.end(session)
            raise Breach("invalid_sequence", 4007)
        self.store.trim(session, now)
        if sequence + 1 < session.oldest:
            self.store.end(session)
            return [Send(peer, control(Opcode.INVALID_SESSION, b"false"))]
        outputs: list[Output] = []
        self.supersede((session.shard_id, session.shard_count))
        if session.peer is not None:  # adopted from the connection that is still there
            old = session.peer
            old.session = None
            self.disconnected(old, None, now)
            outputs.append(Close(old, 4000, ""))
        session.peer, session.detached_at = peer, None
        session.confirmed = max(session.confirmed, sequence)
        peer.session, peer.state = session, "ready"
        self.resumes.append((now, session.shard_id, session.session_id))
        replay = list(session.after(sequence))
        if self.interrupt_replay is not None:
            replay, self.interrupt_replay = replay[: self.interrupt_replay], None
            return [*outputs, *(Send(peer, payload) for payload in replay), Send(peer, control(Opcode.RECONNECT))]
        outputs += [Send(peer, payload) for payload in replay]
        outputs.append(self.log(session, "RESUMED", {}, now))
        return outputs

    def supersede(self, shard: tuple[int, int]) -> None:
        """Another connection gets this shard: whoever had it must not say a word any more, if ``one_owner``.

        It is not told, so that what it does by itself is seen: it may be a process that was stopped for a while.
        """
        for peer in self.peers if self.settings.one_owner else ():
            session = peer.session
            if session is not None and (session.shard_id, session.shard_count) == shard:
                peer.session, peer.state, session.peer = None, "superseded", None

    # ---------------------------------------------------------------- dispatching

    def log(self, session: ServerSession, name: str, data: Any, now: float) -> Send:
        """Number a dispatch for a session that is attached."""
        assert session.peer is not None
        payload = session.append(name, data if isinstance(data, bytes) else encode(data), now)
        self.store.trim(session, now)
        return Send(session.peer, payload)

    def dispatch(
        self, name: str, data: Any, now: float, encoded: bytes | None = None, recorded: tuple[int, int] | None = None
    ) -> list[Output]:
        """An event happened: number it for every session it concerns, and send it to those that are attached.

        ``encoded``: the JSON of ``data``, where it is at hand. ``recorded``: shard id and count it was recorded with.
        """
        outputs: list[Output] = []
        guild_id = None if name.startswith(SHARD_ZERO) else guild_of(name, data)
        store = self.store
        for session in store.of_guild(guild_id) if recorded is None else store.of_recorded(guild_id, *recorded):
            if not is_wanted(session, name, guild_id):
                continue
            if is_blanked(session, name, data):
                payload = session.append(name, encode(blank_content(data, self.world.user_id)), now)
            else:
                encoded = encoded or encode(data)
                payload = session.append(name, encoded, now)
            self.store.trim(session, now)
            if session.peer is not None and session.peer.state == "ready":
                outputs.append(Send(session.peer, payload))
        return outputs

    def dispatch_to(self, session: ServerSession, name: str, data: Any, now: float) -> list[Output]:
        """An event for one session, such as the answer to a command."""
        payload = session.append(name, encode(data), now)
        return [Send(session.peer, payload)] if session.peer is not None else []


# -------------------------------------------------------------------- payloads


def encode(data: Any) -> bytes:
    return msgspec.json.encode(data)


def decode(message: bytes, text: bool) -> tuple[int, Any]:
    try:
        payload = msgspec.json.decode(message)
    except UNREADABLE:
        raise Breach("undecodable", 4002) from None
    if not isinstance(payload, dict) or not is_integer(payload.get("op")):
        raise Breach("undecodable", 4002)
    return payload["op"], payload.get("d")


def control(op: Opcode, data: bytes = b"null") -> bytes:
    return b'{"t":null,"s":null,"op":%d,"d":%s}' % (op, data)


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


Handler = Callable[[Core, Peer, Any, float], list[Output]]


def run_command(op: Opcode) -> Handler:
    def handle(core: Core, peer: Peer, data: Any, now: float) -> list[Output]:
        name = check_command(op, data)
        if name is not None:
            raise Breach(name, 4001)
        assert peer.session is not None
        replies: Iterable[tuple[str, Any]] = COMMANDS[op](core, peer, data, now)
        return [output for event, d in replies for output in core.dispatch_to(peer.session, event, d, now)]

    return handle


#: What a client may send (3.3). Anything else is 4001.
HANDLERS: dict[int, Handler] = {
    Opcode.HEARTBEAT: Core.on_heartbeat,
    Opcode.IDENTIFY: Core.on_identify,
    Opcode.RESUME: Core.on_resume,
    **{op: run_command(op) for op in COMMANDS},
}

assert set(REASONS) <= set(CLOSE_POLICY)
