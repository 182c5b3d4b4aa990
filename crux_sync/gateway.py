"""The gateway: its options, its life, its shards. What a user of the library holds."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Self

from .callbacks import check_callable
from .commander import Commander
from .dispatchers import create_dispatcher
from .endpoint import Endpoint
from .errors import ConfigurationError, FatalCloseError, GatewayClosed, SessionStartLimitReached
from .events import Event
from .heartbeat import Heartbeater
from .intents import Intents
from .keeper import Keeper
from .limits import IdentifyLedger, IdentifyLimiter, LocalIdentifyLimiter
from .options import Options, check_range, whole_number
from .presence import Presence
from .sessions import Identity, StoredSession, create_store
from .shard import Shard
from .signals import Interrupted, closing_signals
from .stats import Stats, SubscriptionStats
from .watch import POSSIBLE, Watch
from .wiring import Wiring

logger = logging.getLogger(__name__)

#: run() must have ended two seconds after Ctrl-C or SIGTERM; this is for closing in order, seconds.
RUN_CLOSE_TIMEOUT = 1.5


class Gateway(Commander):
    """A connection to Discord's gateway: a daemon thread per shard, events in queues and callbacks.

    ``token``: the bot token; default: the environment variable DISCORD_TOKEN. All else by name:

    - ``intents``: what to be told about; default: all that need no privilege.
    - ``url``, ``shard_count``: default: as ``GET /gateway/bot`` says; with both given no HTTP request is made.
      ``url`` may be a callable.
    - ``shards``: which shards run here, numbers and ranges: ``[range(1, 4), 8]``; default: all.
    - ``dispatcher``: how events are dealt to consumers: an instance, a class, or ``(class, options)``.
    - ``presence``: a Presence, a mapping, or ``callable(shard_id)``, called at every identify.
    - ``compress``: ``"zlib-stream"``, ``"zstd-stream"`` (extra ``zstd``) or None.
    - ``large_threshold``: members above which a guild arrives without its offline ones, 50 to 250.
    - ``workers``: threads that call callbacks; more than one keep the order within a guild; 0: only ``poll()`` does.
    - ``queue_size``, ``overflow``: bound of each queue, in events, and what happens beyond it: ``"block"``,
      ``"drop_oldest"``, ``"drop_newest"``.
    - ``session_store``: a path, or a SessionStore: sessions survive restarts; None: they live as long as the gateway.
    - ``identify_limiter``: None: identifies of this process alone are spaced.
    - ``permitted``: called before anything is written to Discord, on any thread, and must be quick; False cuts the
      connection. For shards that may be taken over by another process. None: always.
    - ``api_url``, ``ssl_context``, ``proxy``: where and how to connect.
    - ``wait_for_session_starts``: instead of raising SessionStartLimitReached, wait until identifies are granted.

    Raises ConfigurationError for a value that breaks a rule, before anything is sent. Methods may be called from any
    thread, callbacks included, except ``run`` (signals are handled on the main thread only). One gateway is started
    once; it is unusable after ``fork``.
    """

    def __init__(self, token: str | None = None, **options: Any) -> None:
        super().__init__(Options().override({"token": token, **options}))
        self._heartbeater = Heartbeater()
        self._endpoint: Endpoint | None = None
        self._wiring: Wiring | None = None
        self._shards: dict[int, Shard] = {}
        self._closing = threading.Event()
        #: With a persistent session store.
        self._keeper: Keeper | None = None

    def __repr__(self) -> str:
        states: dict[str, int] = {}
        for shard in self._shards.values():
            states[shard.state] = states.get(shard.state, 0) + 1
        shards = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no shards"
        return f"<Gateway {self._phase}: {shards}>"

    # ---------------------------------------------------------------- life

    def start(self, **overrides: Any) -> list[Shard]:
        """Start the shards and return them at once, before READY. Options given here override the constructor's.

        Any thread. Raises ConfigurationError, DiscoveryError, AuthenticationFailed (HTTP 401),
        SessionStartLimitReached, and GatewayClosed when it was started before. After an error it may be tried again.
        """
        self._check_process()
        with self._condition:
            if self._phase != "new":
                raise GatewayClosed(f"this gateway is {self._phase}: a Gateway is started once; make a new one")
            self._phase = "starting"
        try:
            self._options = self._options.override(overrides)
            shards = self._start(self._options, overrides)
        except BaseException:
            self._phase = "new"
            if self._keeper is not None:
                self._keeper.close(())
                self._keeper = None
            raise
        self._phase = "running"
        return shards

    def _start(self, options: Options, overrides: Mapping[str, Any]) -> list[Shard]:
        token = options.need_token()
        if "dispatcher" in overrides:
            self._hub.use(create_dispatcher(options.dispatcher))
        if "intents" in overrides:
            self._warn_of_names(self._registry.names or ())
        self._endpoint = endpoint = Endpoint(options, token, self._registry.report, self._closing)
        ids = options.shards if options.shards is not None else tuple(range(endpoint.shard_count))
        check_range(ids, endpoint.shard_count)
        stored = self._open_store(options, token, endpoint.shard_count)
        self._wiring = wiring = Wiring(
            host=self,
            hub=self._hub,
            heartbeater=self._heartbeater,
            watch=Watch(possible=POSSIBLE and options.permitted is None),
            limiter=self._limiter(options, endpoint, sum(shard_id not in stored for shard_id in ids)),
            token=lambda: token,
            intents=options.intents,
            large_threshold=options.large_threshold,
            compress=options.compress,
            ssl_context=options.ssl_context,
            proxy=options.proxy,
            permitted=options.permitted,
        )
        self._start_workers(options)
        self._heartbeater.start()
        shards = [Shard(shard_id, endpoint.shard_count, wiring) for shard_id in ids]
        self._shards = {shard.id: shard for shard in shards}
        for shard in shards:
            if shard.id in stored:
                shard.restore(stored[shard.id])
            shard.session.beats_carry_handled = self._keeper is not None
        if self._keeper is not None:
            self._keeper.start()
        for shard in shards:
            shard.start()
        return shards

    def _open_store(self, options: Options, token: str, shard_count: int) -> Mapping[int, StoredSession]:
        """The stored sessions, by shard id; from here on they are kept."""
        store = create_store(options.session_store)
        if store is None:
            return {}
        stored = store.open(Identity.of(token, shard_count, int(options.intents)))
        self._keeper = Keeper(store, lambda: self._shards, self._all_consumers)
        self._track_handled()
        return stored

    def _limiter(self, options: Options, endpoint: Endpoint, identifies: int) -> IdentifyLimiter:
        """The identify limiter, unless more identifies are needed now than Discord grants."""
        limit = endpoint.session_start_limit
        if limit is not None and limit.remaining < identifies and not options.wait_for_session_starts:
            raise SessionStartLimitReached(
                f"{identifies} shards need as many session starts; {limit.remaining} of {limit.total} are left, "
                f"all of them again in {limit.reset_after:.0f} s",
                remaining=limit.remaining,
                reset_after=limit.reset_after,
            )
        if options.identify_limiter is not None:
            limiter: IdentifyLimiter = options.identify_limiter
            return limiter
        if limit is None:
            return LocalIdentifyLimiter(1)
        ledger = IdentifyLedger(limit.total, limit.remaining, limit.reset_after, time.monotonic(), planned=identifies)
        return LocalIdentifyLimiter(limit.max_concurrency, ledger=ledger)

    def run(self, **overrides: Any) -> None:
        """Start, block until the gateway ends, close. Ctrl-C and SIGTERM close it and return; fatal errors are raised.

        Signals are handled only when called on the main thread; the handlers of before are restored. Raises what
        ``start`` and ``join`` raise.
        """
        with closing_signals() as interrupted:
            try:
                self.start(**overrides)
                self.join()
            except Interrupted:
                logger.info("closing on %s", interrupted())
            finally:
                self.close(timeout=RUN_CLOSE_TIMEOUT if interrupted() else 10.0)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the gateway is closed. Any thread.

        Raises what was fatal (a FatalCloseError), or TimeoutError after ``timeout`` seconds; None: no limit.
        """
        self._check_process()
        with self._condition:
            ended = self._condition.wait_for(lambda: self._failure is not None or self._phase == "closed", timeout)
        if self._failure is not None:
            raise self._failure
        if not ended:
            raise TimeoutError(f"still running after {timeout:g} s")

    def close(self, resume: bool | None = None, timeout: float = 10.0) -> None:
        """Leave Discord and end every thread, within ``timeout`` seconds. Any thread, also a callback. Idempotent.

        ``resume=True`` keeps the session alive on Discord's side; what consumers have not handled stays unhandled.
        Otherwise the queues are drained within the time-out and Discord is told 1000: the bot goes offline.
        None: keep it exactly when a persistent session store is configured.
        """
        self._check_process()
        with self._condition:
            first = self._phase not in ("closing", "closed")
            if first:
                self._phase = "closing"
        if not first:
            self._wait_closed(timeout)
            return
        self._closing.set()
        try:
            keep = self._keeper is not None if resume is None else resume
            self._close(resume=keep, deadline=time.monotonic() + timeout)
        finally:
            with self._condition:
                self._phase = "closed"
                self._condition.notify_all()

    def _wait_closed(self, timeout: float) -> None:
        on_own_thread = self._is_own_thread()
        with self._condition:
            self._condition.wait_for(lambda: self._phase == "closed" or on_own_thread, timeout)

    def _close(self, *, resume: bool, deadline: float) -> None:
        shards = list(self._shards.values())
        # From a callback with a single worker nobody else makes room; what is dealt already is still handled.
        abandon = resume or self._options.workers == 0 or (self._is_own_thread() and self._options.workers == 1)
        for shard in shards:
            shard.stop(resumable=resume, abandon=abandon)
        self._join_shards(shards, deadline)
        self._heartbeater.close(1.0)
        consumers = self._close_consumers(deadline, keep=resume)
        if self._keeper is not None:
            self._keeper.close(consumers)

    def _join_shards(self, shards: list[Shard], deadline: float) -> None:
        """In order first; what has not ended by then is cut off."""
        patience = deadline - 0.3
        late = [shard for shard in shards if not shard.join(max(patience - time.monotonic(), 0.05))]
        for shard in late:
            shard.abort()
        for shard in late:
            if not shard.join(max(deadline - time.monotonic(), 0.3)):
                logger.warning("shard %d did not end in time", shard.id, extra={"shard": shard.id})

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start_shard(self, shard_id: int) -> Shard:
        """Start one more shard of this gateway, or one that was stopped. Any thread.

        Raises ConfigurationError when it runs already or is none of ``shard_count``; GatewayClosed.
        """
        wiring = self._running()
        assert self.shard_count is not None
        whole_number("shard_id", 0, self.shard_count - 1)(shard_id)
        with self._condition:
            known = self._shards.get(shard_id)
            if known is not None and known.state not in ("stopped", "failed"):
                raise ConfigurationError(f"shard {shard_id} is running")
            shard = Shard(shard_id, self.shard_count, wiring)
            shard.session.beats_carry_handled = self._keeper is not None
            if known is not None:
                shard.count_on(known)
            self._shards = dict(sorted((self._shards | {shard_id: shard}).items()))
        shard.start()
        return shard

    def stop_shard(self, shard_id: int, *, resume: bool = False, timeout: float = 10.0) -> None:
        """Stop one shard, within ``timeout`` seconds; ``resume=True`` keeps its session alive on Discord's side.

        Any thread. Raises ConfigurationError when it does not run here; GatewayClosed.
        """
        self._running()
        shard = self._shards.get(shard_id)
        if shard is None:
            raise ConfigurationError(f"shard {shard_id} does not run here")
        shard.stop(resumable=resume, abandon=False)
        self._join_shards([shard], time.monotonic() + timeout)

    def _running(self) -> Wiring:
        self._running_shards()
        assert self._wiring is not None
        return self._wiring

    # ---------------------------------------------------------------- shards

    @property
    def shards(self) -> Mapping[int, Shard]:
        """The shards that run here, by id; read-only, empty before ``start``."""
        return MappingProxyType(self._shards)

    @property
    def shard_count(self) -> int | None:
        """How many shards the bot has in all; None until known."""
        return self._endpoint.shard_count if self._endpoint is not None else self._options.shard_count

    def stats(self) -> Stats:
        """A snapshot: states, latencies, counts, queues. Any thread."""
        consumers = tuple(
            SubscriptionStats(one.label, one.waiting, one.queue.bytes, one.delivered, one.dropped) for one in self._hub
        )
        shards = {shard_id: shard.stats() for shard_id, shard in self._shards.items()}
        limiter = self._wiring.limiter if self._wiring is not None else None
        # A limiter of the user's own may know neither.
        ledger = getattr(limiter, "ledger", None)
        return Stats(
            shards,
            consumers,
            self._hub.discarded,
            self._heartbeater.worst_delay,
            ledger.remaining if ledger is not None else None,
            getattr(limiter, "max_concurrency", 1),
            self._hub.dropped(),
        )

    def measure(self, callback_time: Callable[[str, float], object]) -> None:
        """Count events by type from now on, in ``stats()``, also those that nobody wants; time the callbacks.

        ``callback_time`` is told the name and the seconds of each call, on the thread that made it. For exporters of
        metrics (``crux_sync.metrics`` is one); a gateway that is not measured pays nothing for it. Any thread.
        """
        check_callable(callback_time)
        self._registry.time(callback_time)
        self._hub.measure()

    # What shards ask of their host, on their threads.

    def gateway_url(self, *, refresh: bool) -> str:
        """The url to connect to; after failed dials it is asked for again."""
        assert self._endpoint is not None
        return self._endpoint.refreshed_url() if refresh else self._endpoint.url

    def may_resume_at(self, url: str) -> bool:
        """Whether a resume url may be followed."""
        assert self._endpoint is not None
        return self._endpoint.may_resume_at(url)

    def presence_for(self, shard_id: int) -> dict[str, Any] | None:
        """The presence for an identify, as a payload: what a command has set, else the option."""
        presence = self._presences.get(shard_id, self._options.presence)
        try:
            if callable(presence):
                presence = presence(shard_id)
            return None if presence is None else Presence.of(presence).payload()
        except Exception as error:
            self._registry.report(error, None, self._options.presence)
            return None

    def shard_failed(self, shard_id: int, error: FatalCloseError) -> None:
        """A shard ended for good: raise it where the user is."""
        if error.code == 4014:
            asked = self._options.intents & Intents.privileged()
            error = type(error)(
                error.code,
                error.reason,
                shard_id,
                detail=f"{', '.join(asked.names()) or 'a privileged intent'} asked for, but not enabled "
                "on the Bot page of the developer portal",
            )
        logger.error("%s", error, extra={"shard": shard_id})
        with self._condition:
            self._failure = self._failure or error
            self._condition.notify_all()
        self._fail_consumers(error)

    def session_changed(self) -> None:
        """A shard has a new session, or lost one."""
        if self._keeper is not None:
            self._keeper.wake()

    def report(self, error: BaseException, event: Event | None, source: Any) -> None:
        """An error of user code, or an unexpected one of a shard."""
        self._registry.report(error, event, source)
