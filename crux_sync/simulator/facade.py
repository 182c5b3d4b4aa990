"""``Simulator``: an offline Discord as one object, for demos, tests, and tests of other people's bots."""

import os
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from ..intents import EVENT_INTENTS
from ..recording import Recording
from .channels import RestRequest
from .core import Core, Peer, Settings
from .faults import Faults
from .payloads import Maker
from .replay import LOOK_EVERY, Replay
from .rest import Rest
from .server import Server
from .sessions import ServerSession
from .traffic import DEFAULT_MIX, Traffic
from .world import Guild


class Simulator(Faults):
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
        self._traffic: list[Traffic | Replay] = []
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
        """Listen. Done by ``with`` as well; for one that outlives a block, such as in a session of your own."""
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
        """The address that clients connect to."""
        return "127.0.0.1" if self._server.host == "0.0.0.0" else self._server.host

    @property
    def port(self) -> int:
        """The port, also when any free one was asked for."""
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
    def rest_requests(self) -> list[RestRequest]:
        """What bots have posted and Discord has taken: messages and answers to interactions, in order.

        A message posted to a channel also comes back as MESSAGE_CREATE. Answers are taken to interactions that were
        dispatched here, once each.
        """
        with self._server.changed:
            return list(self._rest.posted)

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
        """Wait until ``predicate`` is true, at most ``timeout`` seconds; whether it became so.

        It is looked at whenever something happens here.
        """
        with self._server.changed:
            return bool(self._server.changed.wait_for(predicate, timeout))

    def wait_ready(self, shards: int | None = None, timeout: float = 10.0) -> bool:
        """Wait until ``shards`` sessions (default: as many as there are shards) are on a connection and told so.

        READY, or RESUMED, is then on its way for good: a fault that follows does not take it back. At most ``timeout``
        seconds; whether it became so.
        """
        wanted = self.settings.shards if shards is None else shards

        def ready() -> int:
            peers = [session.peer for session in self._core.store.alive.values()]
            links = [self._server.link_of(peer) for peer in peers if peer is not None]
            return sum(link is not None and link.greeted for link in links)

        return self.wait_for(lambda: ready() >= wanted, timeout)

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
                if name == "INTERACTION_CREATE":
                    self._rest.interactions.dispatched(data)
                outputs += self._core.dispatch(name, data, now, *encoded)
            self._server.perform(outputs)
            self._server.changed.notify_all()

    def traffic(self, rate: float, mix: Mapping[str, float] | None = None) -> Traffic:
        """Start lifelike traffic of ``rate`` events a second over all shards; ``mix``: event name to share."""
        traffic = Traffic(self._core.world, rate, mix or DEFAULT_MIX, self._dispatch)
        self._traffic.append(traffic)
        return traffic

    def replay(self, path: str | os.PathLike[str], speed: float = 1.0, *, shards: int | None = None) -> Replay:
        """Play a recording of ``crux-sync listen --record``: ``speed`` times as fast as it was, 0: without a pause.

        It begins once ``shards`` sessions (default: as many as there are shards) are on a connection. Called before
        the first client has identified, it also lends the simulator the recording's shard count, account and guilds,
        so that READY says what it said then. A client gets what its intents include; RESUMED is left to the
        simulator. Raises RecordingError, OSError.
        """
        if speed < 0:
            raise ValueError(f"speed={speed!r} must be 0 (without a pause) or more")
        recording = Recording(path)
        with self._server.changed:
            if not self._core.store.history:
                self.settings.shards = recording.shard_count
                if recording.ready:
                    self._core.world.adopt(recording.ready)
        wanted = self.settings.shards if shards is None else shards

        replay = Replay(
            recording, speed, lambda: self.wait_ready(wanted, LOOK_EVERY), self._server.has_room, self._dispatch
        )
        self._traffic.append(replay)
        return replay

    def hang_up(self, code: int = 1001, timeout: float = 10.0) -> bool:
        """Close every connection once what waits on it is written; whether all were gone in time."""
        with self._server.changed:
            for peer in list(self._core.peers):
                self._server.perform(self._core.close(peer, code, "", time.monotonic()))
        return self.wait_for(self._server.idle, timeout)

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
