"""``Simulator``: an offline Discord as one object, for demos, tests, and tests of other people's bots."""

import math
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from ..intents import EVENT_INTENTS
from ..opcodes import Opcode
from .core import Close, Core, Peer, Send, Settings, control
from .payloads import Maker
from .rest import Answer, Rest, as_json, rate_limited
from .server import Link, Server
from .sessions import ServerSession
from .traffic import DEFAULT_MIX, Traffic
from .world import Guild

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Simulator:
    """An offline Discord. Use it as a context manager, or ``start`` and ``close``. Any thread may call any method.

    ``token``: the one that is accepted. ``shards``, ``max_concurrency``, ``total``, ``remaining``: what
    ``/gateway/bot`` says. ``granted_intents``: privileged intents that are granted; default: all. ``tls``: wss and
    https with a throw-away authority; clients use ``ssl_context``. ``seed``: same seed, same world. Everything else as
    in ``Settings`` (times in seconds). It listens on loopback unless ``host`` says otherwise, logs no frames, enforces
    the rules of the gateway, and records every breach in ``violations``.
    """

    def __init__(
        self,
        token: str = "test",
        shards: int = 1,
        max_concurrency: int = 16,
        *,
        tls: bool = False,
        seed: int = 1,
        host: str = "127.0.0.1",
        port: int = 0,
        **settings: Any,
    ) -> None:
        self.settings = Settings(token=token, shards=shards, max_concurrency=max_concurrency, seed=seed, **settings)
        #: For clients when ``tls``: trusts this simulator's authority and nothing else.
        self.ssl_context: ssl.SSLContext | None = None
        server_context = self._make_authority() if tls else None
        self._core = Core(self.settings, lambda: self.url)
        self._rest = Rest(self._core)
        self._server = Server(self._core, self._rest, host, port, server_context)
        self._tls = tls
        self._rest.url = self.url
        self._traffic: list[Traffic] = []
        self._started = False

    def _make_authority(self) -> ssl.SSLContext:
        try:
            import trustme
        except ImportError as error:
            raise ImportError("tls=True needs trustme: pip install 'crux_sync[simulator]'") from error
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(server)
        self.ssl_context = ssl.create_default_context()
        authority.configure_trust(self.ssl_context)
        self.authority_pem = authority.cert_pem.bytes()
        return server

    # ---------------------------------------------------------------- life

    def start(self) -> Self:
        self._started = True
        self._server.start()
        return self

    def close(self) -> None:
        """Stop traffic, cut every connection, end every thread. Idempotent."""
        for traffic in self._traffic:
            traffic.stop()
        self._server.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Simulator {self.url}: {len(self._core.peers)} connections, {len(self._core.store.alive)} sessions>"

    @property
    def host(self) -> str:
        return "127.0.0.1" if self._server.host == "0.0.0.0" else self._server.host

    @property
    def port(self) -> int:
        port: int = self._server.port
        return port

    @property
    def url(self) -> str:
        """The gateway: ``ws://127.0.0.1:PORT``, or wss."""
        return f"{'wss' if self._tls else 'ws'}://{self._authority}"

    @property
    def api_url(self) -> str:
        """The REST API: for ``Gateway(api_url=...)``."""
        return f"{'https' if self._tls else 'http'}://{self._authority}/api/v10"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    # ---------------------------------------------------------------- what happened

    @property
    def sessions(self) -> list[ServerSession]:
        """The sessions that are alive, by shard."""
        with self._server.changed:
            return sorted(self._core.store.alive.values(), key=lambda session: session.shard_id)

    @property
    def session_history(self) -> list[ServerSession]:
        """Every session there was."""
        return list(self._core.store.history)

    @property
    def violations(self) -> list[str]:
        """Every rule the client broke, by name, in order."""
        return list(self._core.violations)

    @property
    def identifies(self) -> list[tuple[float, int, str]]:
        """(monotonic time, shard id, session id) of each Identify that made a session."""
        return list(self._core.identifies)

    @property
    def resumes(self) -> list[tuple[float, int, str]]:
        """(monotonic time, shard id, session id) of each Resume that succeeded."""
        return list(self._core.resumes)

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return self._core.connections

    @property
    def peers(self) -> list[Peer]:
        """The connections that are open."""
        return list(self._core.peers)

    @property
    def requests(self) -> list[str]:
        """The HTTP requests answered, such as ``GET /api/v10/gateway/bot``."""
        return list(self._rest.requests)

    @property
    def sent(self) -> int:
        """Dispatches numbered so far, over all sessions."""
        return sum(session.sequence for session in self._core.store.history)

    @property
    def remaining(self) -> int:
        """Session starts left today."""
        return self._core.remaining

    @property
    def world(self) -> Any:
        """Guilds, members and the bot: read it, or ``add_guild``."""
        return self._core.world

    def wait_for(self, predicate: Callable[[], object], timeout: float = 10.0) -> bool:
        """Wait until ``predicate`` is true; it is looked at whenever something happens here. Whether it became so."""
        with self._server.changed:
            return bool(self._server.changed.wait_for(predicate, timeout))

    def wait_ready(self, shards: int | None = None, timeout: float = 10.0) -> bool:
        """Wait until ``shards`` sessions (default: as many as there are shards) are on a connection."""
        wanted = self.settings.shards if shards is None else shards
        return self.wait_for(
            lambda: sum(session.peer is not None for session in self._core.store.alive.values()) >= wanted, timeout
        )

    # ---------------------------------------------------------------- events

    def dispatch(self, name: str, data: Any = None) -> None:
        """An event happens: it goes to the shard of its guild, if the session's intents include it.

        Without ``data`` a plausible one is made. While a shard is away it goes into its session's replay log.
        """
        if data is None:
            data = self.make(name)
        self._dispatch([(name, data)])

    def make(self, name: str, guild: Guild | None = None) -> Any:
        """Plausible data for an event, in ``guild`` or one by chance."""
        if name not in EVENT_INTENTS:
            raise ValueError(f"{name!r} is none of the documented events; give its data")
        return self._maker.make(name, guild)

    @property
    def _maker(self) -> Maker:
        return Maker(self._core.world, self._core.world._random)

    def _dispatch(self, events: Iterable[tuple[Any, ...]]) -> None:
        with self._server.changed:
            now = time.monotonic()
            outputs = []
            for name, data, *encoded in events:
                outputs += self._core.dispatch(name, data, now, *encoded)
            self._server.perform(outputs)
            self._server.changed.notify_all()

    def traffic(self, rate: float, mix: Mapping[str, float] | None = None) -> Traffic:
        """Start lifelike traffic of ``rate`` events a second over all shards; ``mix``: event name to share."""
        traffic = Traffic(self._core.world, rate, mix or DEFAULT_MIX, self._dispatch)
        self._traffic.append(traffic)
        return traffic

    def add_guild(self, members: int = 12, guild_id: int | None = None) -> Guild:
        """One more guild, which sessions get as GUILD_CREATE. A large one costs nothing until it is asked for."""
        with self._server.changed:
            guild = self._core.world.add_guild(members, guild_id)
            outputs = []
            for session in self._core.store.alive.values():
                if guild in self._core.world.guilds_of(session.shard_id, session.shard_count):
                    data = self._core.world.guild_create(guild, session)
                    outputs += self._core.dispatch_to(session, "GUILD_CREATE", data, time.monotonic())
            self._server.perform(outputs)
            return guild

    # ---------------------------------------------------------------- faults of a connection

    def close_connection(self, shard_id: int = 0, code: int = 4000, reason: str = "") -> None:
        """Close with any code; 0: a close frame without a code."""
        self._each(shard_id, lambda peer, link: self._server.perform(self._core.close(peer, code, reason, now())))

    def end_connection(self, shard_id: int = 0) -> None:
        """End the TCP stream in order, without a close frame."""
        self._each(shard_id, lambda peer, link: link.put([Close(peer, -1, "")]))

    def drop(self, shard_id: int = 0) -> None:
        """TCP reset."""
        self._each(shard_id, lambda peer, link: link.reset())

    def half_open(self, shard_id: int = 0) -> None:
        """From now on read nothing and send nothing, but keep the connection."""

        def act(peer: Peer, link: Link) -> None:
            peer.last_beat = math.inf  # beats that are not read are not late
            link.half_open.set()

        self._each(shard_id, act)

    def reconnect(self, shard_id: int = 0) -> None:
        """Op 7."""
        self.send(shard_id, control(Opcode.RECONNECT))

    def invalidate(self, shard_id: int = 0, resumable: bool = False) -> None:
        """Op 9; without ``resumable`` the session ends."""

        def act(peer: Peer, link: Link) -> None:
            session = peer.session
            if session is not None:
                if not resumable:
                    self._core.store.end(session)
                else:
                    self._core.store.detach(session, now())
                peer.session, peer.state = None, "hello"
            link.put([Send(peer, control(Opcode.INVALID_SESSION, b"true" if resumable else b"false"))])

        self._each(shard_id, act)

    def stop_acks(self, shard_id: int = 0) -> None:
        """Answer no more heartbeats on the present connection."""

        def act(peer: Peer, link: Link) -> None:
            peer.swallow_acks = True

        self._each(shard_id, act)

    def request_heartbeat(self, shard_id: int = 0) -> None:
        """Op 1."""
        self.send(shard_id, control(Opcode.HEARTBEAT))

    def send(self, shard_id: int, payload: bytes) -> None:
        """Any payload, such as an unknown opcode or invalid JSON; compressed as the connection asks, not logged."""
        self._each(shard_id, lambda peer, link: link.put([Send(peer, payload)]))

    def send_raw(self, shard_id: int, data: bytes) -> None:
        """Any bytes, past WebSocket and compression: garbage, half a frame (a stall in mid-frame), bad frames."""
        self._each(shard_id, lambda peer, link: link.put([data]))

    def send_message(self, shard_id: int, data: bytes) -> None:
        """Any binary message, past the compression: a truncated deflate stream, say."""
        length = len(data)
        head = bytes([0x82, length]) if length < 126 else b"\x82\x7e" + length.to_bytes(2, "big")
        self.send_raw(shard_id, head + data)

    def stall(self, shard_id: int = 0) -> None:
        """Send half a frame, and then nothing more on this connection."""
        self.send_raw(shard_id, b"\x82\x7e\x10\x00" + bytes(100))
        self._each(shard_id, lambda peer, link: link.hush())

    def garbage(self, shard_id: int = 0) -> None:
        """Bytes that are no WebSocket frame."""
        self.send_raw(shard_id, b"\xff\xff garbage")

    def truncate_deflate(self, shard_id: int = 0) -> None:
        """A message that ends like a compressed payload and is none."""
        self.send_message(shard_id, b"\x07 cut short \x00\x00\xff\xff")

    def invalid_json(self, shard_id: int = 0) -> None:
        self.send(shard_id, b'{"op":0,"d":{')

    def dispatch_raw(self, shard_id: int, name: str, data: bytes) -> None:
        """A dispatch with ``d`` as these bytes, numbered and logged: an array, invalid UTF-8, anything."""
        with self._server.changed:
            outputs = []
            for session in self._core.store.of_shard(shard_id):
                payload = session.append(name, data, now())
                if session.peer is not None:
                    outputs.append(Send(session.peer, payload))
            self._server.perform(list(outputs))

    def invalid_utf8(self, shard_id: int = 0, name: str = "MESSAGE_CREATE") -> None:
        self.dispatch_raw(shard_id, name, b'{"guild_id":"1","content":"\xff\xfe"}')

    def unknown_opcode(self, shard_id: int = 0, op: int = 99) -> None:
        self.send(shard_id, b'{"t":null,"s":null,"op":%d,"d":{}}' % op)

    def unknown_event(self, shard_id: int = 0, name: str = "SOMETHING_NEW") -> None:
        self.dispatch_raw(shard_id, name, b"{}")

    def array_data(self, shard_id: int = 0, name: str = "PRESENCES_REPLACE") -> None:
        """An event whose ``d`` is an array."""
        self.dispatch_raw(shard_id, name, b"[1,2,3]")

    def bare_envelope(self, shard_id: int = 0) -> None:
        """A heartbeat ack without ``s``, ``t`` and ``d``."""
        self.send(shard_id, b'{"op":11}')

    def large_message(self, shard_id: int = 0, size: int = 8_000_000) -> None:
        """A dispatch of this many bytes."""
        self.dispatch_raw(shard_id, "MESSAGE_CREATE", b'{"guild_id":"1","content":"%s"}' % (b"x" * size))

    def repeat(self, shard_id: int = 0) -> None:
        """Send the last dispatch of the session once more, with the same number."""
        self._each(
            shard_id,
            lambda peer, link: link.put([Send(peer, peer.session.events[-1].payload)] if peer.session else []),
        )

    def skip_sequence(self, shard_id: int = 0, count: int = 1) -> None:
        """Leave a gap in the numbers of the session."""
        with self._server.changed:
            for session in self._core.store.of_shard(shard_id):
                session.skip(count, now())

    def end_session(self, shard_id: int = 0) -> None:
        """Forget the session, as when it expires: the next Resume is answered with op 9."""
        with self._server.changed:
            for session in self._core.store.of_shard(shard_id):
                peer = session.peer
                self._core.store.end(session)
                if peer is not None:
                    peer.session = None

    def _each(self, shard_id: int, act: Callable[[Peer, Link], None]) -> None:
        """Do something to the connections of a shard."""
        with self._server.changed:
            for peer in [one for one in self._core.peers if one.shard_id == shard_id]:
                link = self._server.link_of(peer)
                if link is not None:
                    act(peer, link)
            self._server.changed.notify_all()

    # ---------------------------------------------------------------- faults of what comes next

    def split_messages(self, pieces: int) -> None:
        """Cut each zlib-stream payload of new connections into this many messages, also inside the suffix."""
        self._server.split = pieces

    def delay_hello(self, seconds: float | None) -> None:
        """On new connections Hello comes late; None: never."""
        self._core.hello_delay = seconds

    def delay_ready(self, seconds: float | None) -> None:
        """READY and all that follows come late; None: never."""
        self._core.ready_delay = seconds

    def before_hello(self, payload: bytes = control(Opcode.RECONNECT)) -> None:
        """The next connection gets this payload (default: op 7) before Hello."""
        with self._server.changed:
            self._core.before_hello.append(payload)

    def reconnect_in_replay(self, after: int = 1) -> None:
        """The next Resume is answered with ``after`` events of the replay, then op 7."""
        with self._server.changed:
            self._core.interrupt_replay = after

    def answer_resume(self, resumable: bool) -> None:
        """Answer the next Resume with op 9."""
        with self._server.changed:
            self._core.answer_resumes.append("true" if resumable else "false")

    def refuse_upgrade(self, status: int = 503) -> None:
        """Answer the next upgrade with an HTTP status."""
        with self._server.changed:
            self._server.upgrade_refusals.append(as_json(status, {"message": "refused", "code": 0}))

    def answer_http(self, status: int, body: object = None, *, delay: float = 0.0) -> None:
        """Answer the next REST request with this; ``body``: JSON, or bytes as they are."""
        answer = Answer(status, body) if isinstance(body, bytes) else as_json(status, body or {"message": "scripted"})
        with self._server.changed:
            self._rest.script.append(answer._replace(delay=delay))

    def rate_limit_http(self, retry_after: float, *, json_body: bool = True) -> None:
        """Answer the next REST request with 429, as JSON or as the edge's plain text."""
        with self._server.changed:
            self._rest.script.append(rate_limited(retry_after, json_body=json_body))


def now() -> float:
    return time.monotonic()
