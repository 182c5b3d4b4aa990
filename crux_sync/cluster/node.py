"""A gateway process of a cluster: it holds leases on some of the bot's shards, and runs those."""

import logging
import os
import socket
import threading
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..discovery import fetch_gateway
from ..errors import ConfigurationError
from ..gateway import Gateway
from ..options import Options
from .client import PASSING, RedisError, connect, warn_of_persistence
from .command_reader import CommandReader
from .config import agree
from .keys import PARTITIONS, Keys
from .leases import DURATION, MARGIN, Lease, share
from .limiter import RedisIdentifyLimiter
from .members import Membership
from .process import Process
from .publisher import BACKLOG, StreamPublisher
from .store import RedisSessionStore

logger = logging.getLogger(__name__)

#: How often a process looks after its leases, seconds.
LOOK_EVERY = 0.5

#: How long a shard may take to leave, seconds; within the margin of its lease.
LEAVE_WITHIN = 3.0

#: A process that has given no sign of life for so much of a lease is gone: shards are spread over the others.
GONE = 0.8


class LeasedShard:
    """One shard that runs under a lease: its ``id``, its ``lease``, a ``gateway`` of its own, and what it publishes.

    To look at from any thread; the cluster's own thread starts and stops it.
    """

    def __init__(
        self, shard_id: int, lease: Lease, gateway: Gateway, publisher: StreamPublisher, commands: CommandReader
    ) -> None:
        self.id, self.lease, self.gateway, self.publisher, self.commands = shard_id, lease, gateway, publisher, commands

    @property
    def failure(self) -> BaseException | None:
        """What was fatal; None: nothing. Any thread."""
        try:
            self.gateway.join(0)
        except TimeoutError:
            return self.publisher.failure
        except BaseException as error:
            return error
        return self.publisher.failure

    def stop(self) -> None:
        """Leave, keeping the session: whoever gets the lease next resumes it."""
        self.commands.stop(0)
        self.publisher.stop(0)
        self.gateway.close(resume=True, timeout=LEAVE_WITHIN)
        self.publisher.stop(LEAVE_WITHIN)
        self.commands.stop(LEAVE_WITHIN)


class ClusterGateway(Process):
    """One of several gateway processes of a bot, which share its shards.

    ``ClusterGateway(token, redis="redis://...", name="bot", **options)``: ``name`` is what all processes of the bot
    call it; ``partitions`` the number of event streams, ``backlog`` how many events may wait unread in each before
    the sockets are no longer read; ``lease`` and ``margin`` how long a lease lasts, and by how
    much earlier its holder stops, seconds. ``options`` are those of ``Gateway``, but for what the cluster decides
    (shards, session_store, identify_limiter, workers, dispatcher, permitted). ``start``, ``join``, ``close`` and
    ``run`` as of a Gateway; any thread. Raises ConfigurationError.
    """

    def __init__(
        self,
        token: str | None = None,
        *,
        redis: str = "redis://127.0.0.1:6379/0",
        name: str = "bot",
        partitions: int = PARTITIONS,
        backlog: int = BACKLOG,
        lease: float = DURATION,
        margin: float = MARGIN,
        **options: Any,
    ) -> None:
        super().__init__()
        for taken in DECIDED:
            if taken in options:
                raise ConfigurationError(f"{taken} is decided by the cluster")
        if not 0 < margin < lease:
            raise ConfigurationError(f"margin={margin:g} must be more than 0 and less than lease={lease:g}")
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        checked = Options().override({"token": token, **options})
        checked.need_token()
        self._options = checked
        self._given = options
        self._client = connect(redis)
        self._keys = Keys(name)
        self._partitions, self._backlog, self._duration, self._margin = partitions, backlog, lease, margin
        self._membership = Membership(self._client, self._keys.gateways, self.name, GONE * lease)
        self._limiter: RedisIdentifyLimiter | None = None
        self._url: str | None = None
        self._shard_count = 0
        self._shards: dict[int, LeasedShard] = {}
        self._thread = threading.Thread(target=self._run, name="crux-cluster", daemon=True)

    def __repr__(self) -> str:
        return f"<ClusterGateway {self.name}: shards {sorted(self._shards) or 'none'} of {self._shard_count}>"

    @property
    def shards(self) -> Mapping[int, LeasedShard]:
        """The shards that run here now; read-only."""
        return MappingProxyType(self._shards)

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """Join the cluster, and return before a shard is ready.

        Raises DiscoveryError, AuthenticationFailed, ConfigurationError (the others run with another shard or partition
        count), redis.RedisError when Redis is away; warns when it keeps no append-only file.
        """
        warn_of_persistence(self._client)
        self._discover()
        agree(self._client, self._keys, partitions=self._partitions, shards=self._shard_count)
        self._thread.start()

    def _discover(self) -> None:
        options = self._options
        url, count = options.url, options.shard_count
        concurrency = 1
        if url is None or count is None:
            verify = options.ssl_context or True
            found = fetch_gateway(options.api_url, options.need_token(), verify=verify)
            url, count, limit = url or found.url, count or found.shards, found.session_start_limit
            concurrency = limit.max_concurrency
            self._limiter = RedisIdentifyLimiter(self._client, self._keys, concurrency)
            self._limiter.renew(limit.total, limit.remaining, limit.reset_after)
        self._limiter = self._limiter or RedisIdentifyLimiter(self._client, self._keys, concurrency)
        self._url, self._shard_count = url if isinstance(url, str) else url(), count

    def close(self, timeout: float = 10.0) -> None:
        """Leave the cluster: sessions are kept, and others take over the shards at once. Any thread. Idempotent."""
        self._stopping.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and self._failure is None:
                self._look()
                self._stopping.wait(LOOK_EVERY)
        except BaseException as error:
            logger.exception("the cluster's thread ended")
            self._failure = error
        finally:
            self._leave()
            self._stopped.set()

    def _look(self) -> None:
        """Renew what is held, stop what is over, give back what is too much, ask for what is too little."""
        for shard in list(self._shards.values()):
            self._renew(shard)
            failure = shard.failure
            if failure is not None and self._failure is None and shard.id in self._shards:
                self._failure = failure
        try:
            members = self._membership.beat()
            wanted = share(members, self.name, self._shard_count)
            for shard_id in sorted(self._shards, reverse=True)[: max(len(self._shards) - wanted, 0)]:
                self._give_back(self._shards[shard_id])
            for shard_id in range(self._shard_count):
                if len(self._shards) >= wanted or self._stopping.is_set():
                    break
                if shard_id not in self._shards:
                    self._take(shard_id)
        except PASSING as error:
            logger.debug("looking after leases: %s", error)

    def _renew(self, shard: LeasedShard) -> None:
        try:
            shard.lease.renew()
        except PASSING as error:
            logger.debug("lease of shard %d: %s", shard.id, error, extra={"shard": shard.id})
        if not shard.lease.valid:
            logger.warning("shard %d: the lease is over", shard.id, extra={"shard": shard.id})
            self._stop(shard)

    def _take(self, shard_id: int) -> None:
        lease = Lease(
            self._client,
            self._keys.shard(shard_id),
            self._keys.tokens,
            self.name,
            duration=self._duration,
            margin=self._margin,
        )
        if lease.acquire():
            try:
                self._shards = {**self._shards, shard_id: self._start(shard_id, lease)}
            except BaseException:
                lease.release()
                raise
            logger.info("shard %d is ours now", shard_id, extra={"shard": shard_id})

    def _start(self, shard_id: int, lease: Lease) -> LeasedShard:
        store = RedisSessionStore(self._client, self._keys, {shard_id: lease})
        gateway = Gateway(
            self._options.token,
            **self._given
            | {
                "url": self._url,
                "shard_count": self._shard_count,
                "shards": [shard_id],
                "session_store": store,
                "identify_limiter": self._limiter,
                "permitted": lambda: lease.valid,
                "workers": 0,
            },
        )
        events = gateway.subscribe(overflow="block")
        gateway.start()
        shard = (shard_id, self._shard_count)
        session_id = gateway.shards[shard_id].session_id
        publisher = StreamPublisher(
            self._client, self._keys, lease, events, shard, self._partitions, session_id, backlog=self._backlog
        )
        publisher.start()
        commands = CommandReader(self._client, self._keys, lease, gateway, shard_id)
        commands.start()
        return LeasedShard(shard_id, lease, gateway, publisher, commands)

    def _give_back(self, shard: LeasedShard) -> None:
        self._stop(shard)
        shard.lease.release()
        logger.info("shard %d is given back", shard.id, extra={"shard": shard.id})

    def _stop(self, shard: LeasedShard) -> None:
        self._shards = {shard_id: one for shard_id, one in self._shards.items() if one is not shard}
        shard.stop()

    def _leave(self) -> None:
        """Every shard at once, so that all of them have left within their margin."""
        shards = list(self._shards.values())
        stopping = [threading.Thread(target=self._stop, args=(shard,), daemon=True) for shard in shards]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join(2 * LEAVE_WITHIN)
        try:
            for shard in shards:
                shard.lease.release()
            self._membership.leave()
        except RedisError as error:
            logger.warning("leases are left to run out: %s", error)
        self._client.close()


#: Options of a Gateway that are not the user's here.
DECIDED = ("shards", "session_store", "identify_limiter", "workers", "dispatcher", "permitted")
