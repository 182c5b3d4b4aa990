"""The gateway: options, life, consumers, commands. What a user of the library holds."""

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from threading import Condition
from types import MappingProxyType
from typing import Any, Self, TypeVar, overload

from .callbacks import Callback, ErrorHandler, Registry, Workers, check_callable, check_names, create_decoder
from .discovery import fetch_gateway, is_loopback
from .dispatch import Hub, create_dispatcher
from .errors import ConfigurationError, CruxError, CruxWarning, DiscoveryError, FatalCloseError, GatewayClosed
from .events import Event
from .heartbeat import Heartbeater
from .intents import Intents, advice_for_event
from .limits import IdentifyLedger, LocalIdentifyLimiter
from .options import Options, check_gateway_url, check_overflow, check_range, whole_number
from .presence import Presence
from .shard import Shard, Wiring
from .subscription import Subscription
from .waiting import Waiter

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., object])

#: run() must have ended this soon after Ctrl-C or SIGTERM; a part of it is for closing in order, seconds.
RUN_CLOSE_TIMEOUT = 1.5

#: Several shards that lose their connection together ask /gateway/bot once, not each, seconds.
REDISCOVER_AFTER = 30.0


class Gateway:
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
    - ``session_store``: None: memory. ``identify_limiter``: None: this process alone.
    - ``api_url``, ``ssl_context``, ``proxy``: where and how to connect.
    - ``wait_for_session_starts``: instead of raising SessionStartLimitReached, wait until identifies are granted.

    Raises ConfigurationError for a value that breaks a rule, before anything is sent. Methods may be called from any
    thread, callbacks included, except ``run`` (signals are handled on the main thread only). One gateway is started
    once; it is unusable after ``fork``.
    """

    def __init__(self, token: str | None = None, **options: Any) -> None:
        self._options = Options().override({"token": token, **options})
        self._condition = Condition()
        self._registry = Registry(self._callbacks_changed)
        self._hub = Hub(create_dispatcher(self._options.dispatcher), self._registry.report)
        self._heartbeater = Heartbeater()
        self._shards: dict[int, Shard] = {}
        self._shard_count: int | None = None
        self._url: str | None = None
        self._url_fetched = 0.0
        self._wiring: Wiring | None = None
        self._workers: Workers | None = None
        self._callbacks: Subscription | None = None
        self._callbacks_joined = False
        self._failure: BaseException | None = None
        #: "new", "starting", "running", "closing", "closed"
        self._phase = "new"
        self._closing = threading.Event()
        self._process = os.getpid()
        self._waiters: set[Waiter] = set()

    def __repr__(self) -> str:
        states: dict[str, int] = {}
        for shard in self._shards.values():
            states[shard.state] = states.get(shard.state, 0) + 1
        shards = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no shards"
        return f"<Gateway {self._phase}: {shards}>"

    # ---------------------------------------------------------------- life

    def start(self, **overrides: Any) -> list[Shard]:
        """Start the shards and return them at once, before READY. Options given here override the constructor's.

        Raises ConfigurationError, DiscoveryError, AuthenticationFailed (HTTP 401), SessionStartLimitReached.
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
            raise
        self._phase = "running"
        return shards

    def _start(self, options: Options, overrides: Mapping[str, Any]) -> list[Shard]:
        token = options.need_token()
        if "dispatcher" in overrides:
            self._hub.use(create_dispatcher(options.dispatcher))
        if "intents" in overrides:
            self._warn_of_names(self._registry.names or ())
        limiter = self._discover(options, token)
        assert self._shard_count is not None
        ids = options.shards if options.shards is not None else tuple(range(self._shard_count))
        check_range(ids, self._shard_count)
        self._wiring = Wiring(
            host=self,
            hub=self._hub,
            heartbeater=self._heartbeater,
            limiter=limiter,
            token=lambda: token,
            intents=options.intents,
            large_threshold=options.large_threshold,
            compress=options.compress,
            ssl_context=options.ssl_context,
            proxy=options.proxy,
        )
        self._start_workers(options)
        self._heartbeater.start()
        shards = [Shard(shard_id, self._shard_count, self._wiring) for shard_id in ids]
        self._shards = {shard.id: shard for shard in shards}
        for shard in shards:
            shard.start()
        return shards

    def _discover(self, options: Options, token: str) -> Any:
        """Settle url and shard count, by HTTP if need be; the identify limiter."""
        self._shard_count = options.shard_count
        self._url = check_gateway_url(options.url(), "url") if callable(options.url) else options.url
        if self._url is not None and self._shard_count is not None:
            return options.identify_limiter or LocalIdentifyLimiter(1)
        info = fetch_gateway(
            options.api_url, token, verify=options.ssl_context or True, proxy=options.proxy, cancelled=self._closing
        )
        self._url_fetched = time.monotonic()
        self._shard_count = self._shard_count or info.shards
        if self._url is None:
            self._url = self._check_discovered(info.url)
        limit = info.session_start_limit
        ledger = IdentifyLedger(limit.total, limit.remaining, limit.reset_after, time.monotonic())
        return options.identify_limiter or LocalIdentifyLimiter(limit.max_concurrency, ledger=ledger)

    def _check_discovered(self, url: str) -> str:
        try:
            checked = check_gateway_url(url.split("?")[0], "the gateway url")
        except ConfigurationError as error:
            raise DiscoveryError(f"{self._options.api_url}/gateway/bot: {error}") from error
        if checked.startswith("ws://") and not is_loopback(self._options.api_url):
            raise DiscoveryError(f"{self._options.api_url}/gateway/bot names {url!r}, which is not encrypted")
        return checked

    def _start_workers(self, options: Options) -> None:
        self._callbacks = Subscription(
            frozenset(),
            maxsize=options.queue_size,
            overflow=options.overflow,
            on_room=self._hub.room_made,
            on_close=self._hub.leave,
            report=self._registry.report,
            label="the callback queue",
        )
        self._workers = Workers(self._registry, self._callbacks, options.workers)
        self._callbacks_changed()
        self._workers.start()

    def run(self, **overrides: Any) -> None:
        """Start, block until the gateway ends, close. Ctrl-C and SIGTERM close it and return; fatal errors are raised.

        Signals are handled only when called on the main thread; the handlers of before are restored.
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
        """Wait until the gateway is closed. Raises the fatal error of a shard, TimeoutError after ``timeout`` seconds."""
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
            self._close(resume=bool(resume), deadline=time.monotonic() + timeout)
        finally:
            with self._condition:
                self._phase = "closed"
                self._condition.notify_all()

    def _wait_closed(self, timeout: float) -> None:
        on_own_thread = self._is_own_thread()
        with self._condition:
            self._condition.wait_for(lambda: self._phase == "closed" or on_own_thread, timeout)

    def _is_own_thread(self) -> bool:
        """Whether the current thread is one that close() would wait for."""
        return self._workers is not None and threading.current_thread() in self._workers.threads

    def _close(self, *, resume: bool, deadline: float) -> None:
        shards = list(self._shards.values())
        # From a callback with a single worker nobody else makes room; what is dealt already is still handled.
        abandon = resume or (self._is_own_thread() and self._options.workers == 1) or self._options.workers == 0
        for shard in shards:
            shard.stop(resumable=resume, abandon=abandon)
        self._join_shards(shards, deadline)
        self._heartbeater.close(1.0)
        error = self._failure or GatewayClosed("the gateway is closed")
        for waiter in list(self._waiters):
            waiter.fail(error)
        if self._callbacks is not None:
            self._callbacks.queue.close(discard=resume)
        for subscription in self._hub:
            subscription.failure = self._failure
            subscription.close()
        if self._workers is not None:
            for thread in self._workers.threads:
                if thread is not threading.current_thread():
                    thread.join(max(deadline - time.monotonic(), 0.05))
            if self._callbacks is not None:
                self._callbacks.queue.close(discard=True)

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
        """Start one more shard of this gateway, or one that was stopped. Raises ConfigurationError, GatewayClosed."""
        wiring = self._running()
        assert self._shard_count is not None
        whole_number("shard_id", 0, self._shard_count - 1)(shard_id)
        with self._condition:
            known = self._shards.get(shard_id)
            if known is not None and known.state not in ("stopped", "failed"):
                raise ConfigurationError(f"shard {shard_id} is running")
            shard = Shard(shard_id, self._shard_count, wiring)
            self._shards = dict(sorted((self._shards | {shard_id: shard}).items()))
        shard.start()
        return shard

    def stop_shard(self, shard_id: int, *, resume: bool = False, timeout: float = 10.0) -> None:
        """Stop one shard; ``resume=True`` keeps its session alive on Discord's side. Raises ConfigurationError."""
        self._running()
        shard = self._shards.get(shard_id)
        if shard is None:
            raise ConfigurationError(f"shard {shard_id} does not run here")
        shard.stop(resumable=resume, abandon=False)
        self._join_shards([shard], time.monotonic() + timeout)

    def _running(self) -> Wiring:
        self._check_process()
        if self._failure is not None:
            raise self._failure
        if self._phase != "running" or self._wiring is None:
            raise GatewayClosed(
                "the gateway is not running" if self._phase == "new" else f"the gateway is {self._phase}"
            )
        return self._wiring

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise CruxError(
                "this gateway belongs to the process it was made in; after fork (gunicorn, Celery) make and start one "
                "in each worker that needs it"
            )

    # ---------------------------------------------------------------- shards

    @property
    def shards(self) -> Mapping[int, Shard]:
        """The shards that run here, by id; read-only, empty before ``start``."""
        return MappingProxyType(self._shards)

    @property
    def shard_count(self) -> int | None:
        """How many shards the bot has in all; None until known."""
        return self._shard_count or self._options.shard_count

    def shard_for(self, guild_id: int | str) -> int:
        """The id of the shard that a guild's events come on: ``(guild_id >> 22) % shard_count`` (section 9)."""
        count = self.shard_count
        if count is None:
            raise GatewayClosed("shard_count is not known before start(): give it to Gateway(...)")
        try:
            return (int(guild_id) >> 22) % count
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"guild_id={guild_id!r} must be a snowflake") from error

    # What shards ask of their host, on their threads.

    def gateway_url(self, *, refresh: bool) -> str:
        """The url to connect to; after failed dials it is asked for again."""
        if refresh:
            self._refresh_url()
        assert self._url is not None
        return self._url

    def _refresh_url(self) -> None:
        options = self._options
        if callable(options.url):
            try:
                self._url = check_gateway_url(options.url(), "url")
            except Exception as error:
                self._registry.report(error, None, options.url)
        elif options.url is None and time.monotonic() - self._url_fetched > REDISCOVER_AFTER:
            self._url_fetched = time.monotonic()
            try:
                info = fetch_gateway(
                    options.api_url,
                    options.need_token(),
                    verify=options.ssl_context or True,
                    proxy=options.proxy,
                    cancelled=self._closing,
                )
                self._url = self._check_discovered(info.url)
            except DiscoveryError as error:
                logger.warning("keeping the gateway url: %s", error)

    def may_resume_at(self, url: str) -> bool:
        """Whether a resume url may be followed: encrypted, or plain where the user's own url is (and stays there)."""
        try:
            check_gateway_url(url.split("?")[0], "resume_gateway_url")
        except ConfigurationError:
            return False
        if url.startswith("wss://"):
            return True
        return self._url is not None and self._url.startswith("ws://") and is_loopback(url) == is_loopback(self._url)

    def presence_for(self, shard_id: int) -> dict[str, Any] | None:
        """The presence for an identify, as a payload."""
        presence = self._options.presence
        if callable(presence):
            try:
                presence = presence(shard_id)
            except Exception as error:
                self._registry.report(error, None, presence)
                presence = None
        try:
            return None if presence is None else Presence.of(presence).payload()
        except ConfigurationError as error:
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
                detail=f"{', '.join(asked.names()) or 'a privileged intent'} asked for, but not enabled on the Bot page "
                "of the developer portal",
            )
        logger.error("shard %d: %s", shard_id, error, extra={"shard": shard_id})
        with self._condition:
            self._failure = self._failure or error
            self._condition.notify_all()
        for waiter in list(self._waiters):
            waiter.fail(error)
        for subscription in self._hub:
            if subscription.ends_on_failure:
                subscription.failure = error
                subscription.queue.close()

    def report(self, error: BaseException, event: Event | None, source: Any) -> None:
        """An error of user code, or an unexpected one of a shard."""
        self._registry.report(error, event, source)

    # ---------------------------------------------------------------- callbacks

    def on(self, *names: str, type: Any = None) -> Callable[[F], F]:
        """Decorate a function to be called with each event of these names; without names, with every event.

        ``type``: a msgspec Struct, dataclass or TypedDict to decode ``event.data`` into; a payload that does not fit
        goes to ``on_error``. The function is returned unchanged. Callbacks run on worker threads, never on a shard's.
        Raises ConfigurationError (a coroutine function, no event name); warns of names and intents that look wrong.
        """
        return self._register(names, type, once=False)

    def once(self, *names: str, type: Any = None) -> Callable[[F], F]:
        """As ``on``, for the first such event only."""
        return self._register(names, type, once=True)

    def _register(self, names: tuple[str, ...], type: Any, *, once: bool) -> Callable[[F], F]:
        wanted = check_names(names)
        self._warn_of_names(wanted or ())

        def decorate(function: F) -> F:
            self._registry.add(Callback(function, wanted, type, once))
            return function

        return decorate

    def add_callbacks(self, group: Any) -> None:
        """Register the methods of ``group`` that ``crux_sync.listens`` marked: callbacks grouped in a class."""
        found = 0
        for attribute in dir(group):
            for names, type, once in getattr(getattr(group, attribute), "__crux_sync__", ()):
                self._register(names, type, once=once)(getattr(group, attribute))
                found += 1
        if not found:
            raise ConfigurationError(f"{group!r} has no method marked with crux_sync.listens(...)")

    def remove(self, function: Callable[..., object]) -> bool:
        """Stop calling ``function``; whether it was registered. A call that is under way goes on."""
        return self._registry.remove(function)

    @overload
    def on_error(self, function: F) -> F: ...
    @overload
    def on_error(self) -> Callable[[F], F]: ...
    def on_error(self, function: Any = None) -> Any:
        """Decorate ``(error, event, callback)`` to be told what callbacks, selectors and hashes raise.

        ``event`` is None where none was at hand. Without such a function errors are logged with their traceback.
        """
        if function is None:
            return self.on_error
        check_callable(function)
        handler: ErrorHandler = function
        self._registry.error_handlers = (*self._registry.error_handlers, handler)
        return function

    def poll(self, max_events: int | None = None) -> int:
        """With ``workers=0``: call the callbacks for what waits, in this thread, never blocking; how many events."""
        if self._options.workers:
            raise ConfigurationError("poll() is for workers=0; here worker threads call the callbacks")
        self._check_process()
        return self._workers.poll(max_events) if self._workers is not None else 0

    def _callbacks_changed(self) -> None:
        """The callbacks together are one consumer, and only while there are any."""
        with self._condition:
            subscription = self._callbacks
            if subscription is None or subscription.closed:
                return
            subscription.names = self._registry.names
            wanted, joined = len(self._registry) > 0, self._callbacks_joined
            self._callbacks_joined = wanted
        if wanted and not joined:
            self._hub.join(subscription)
        elif joined and not wanted:
            self._hub.leave(subscription)
        else:
            self._hub.refresh()

    def _warn_of_names(self, names: Any) -> None:
        for name in sorted(names):
            advice = advice_for_event(name, self._options.intents)
            if advice:
                warnings.warn(advice, CruxWarning, stacklevel=4)

    # ---------------------------------------------------------------- consumers

    def subscribe(
        self,
        *names: str,
        selector: Callable[[Event], object] | None = None,
        maxsize: int | None = None,
        overflow: str | None = None,
        partition: Hashable | None = None,
        type: Any = None,
    ) -> Subscription:
        """A queue of events of one's own: those of these names (default: all) for which ``selector`` says true.

        ``maxsize`` and ``overflow`` default to the gateway's ``queue_size`` and ``overflow``; ``partition`` goes with
        a PartitionDispatcher; ``type`` as for ``on``. The selector runs on shard threads and must be quick.
        It may be called before ``start``. Raises ConfigurationError, GatewayClosed.
        """
        wanted = check_names(names)
        self._warn_of_names(wanted or ())
        if selector is not None:
            check_callable(selector)
        return self._subscribe(
            wanted,
            selector=selector,
            maxsize=self._options.queue_size if maxsize is None else whole_number("maxsize", 0)(maxsize),
            overflow=self._options.overflow if overflow is None else check_overflow(overflow),
            partition=partition,
            decoder=create_decoder(type),
        )

    def _subscribe(self, names: frozenset[str] | None, **settings: Any) -> Subscription:
        self._check_process()
        if self._phase in ("closing", "closed"):
            raise GatewayClosed("the gateway is closed")
        subscription = Subscription(
            names, on_room=self._hub.room_made, on_close=self._hub.leave, report=self._registry.report, **settings
        )
        self._hub.join(subscription)
        return subscription

    def __iter__(self) -> Iterator[Event]:
        """Every event, in a subscription of its own; ends when the gateway closes, raises what was fatal."""
        options = self._options
        subscription = self._subscribe(None, maxsize=options.queue_size, overflow=options.overflow)
        subscription.ends_on_failure = True
        if self._failure is not None:
            subscription.close()
            raise self._failure
        return consume(subscription)

    def wait_for(
        self,
        *names: str,
        check: Callable[[Event], object] | None = None,
        timeout: float | None = None,
        type: Any = None,
    ) -> Event:
        """Wait for the next event of these names for which ``check`` says true, and return it.

        It takes the event from no consumer. ``check`` runs in this thread; what it raises is raised here. May be
        called from a callback. Raises TimeoutError after ``timeout`` seconds, GatewayClosed, or what was fatal.
        """
        wanted = check_names(names)
        self._warn_of_names(wanted or ())
        self._check_process()
        if self._phase in ("closing", "closed"):
            raise self._failure or GatewayClosed("the gateway is closed")
        waiter = Waiter(wanted, self._hub)
        self._waiters.add(waiter)
        try:
            if self._failure is not None:
                raise self._failure
            return waiter.wait(check, timeout, create_decoder(type))
        finally:
            self._waiters.discard(waiter)
            waiter.close()


def consume(subscription: Subscription) -> Iterator[Event]:
    """Iterate, and leave when the loop is left."""
    with subscription:
        yield from subscription


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM during ``run``."""


@contextmanager
def closing_signals() -> Iterator[Callable[[], str | None]]:
    """On the main thread: SIGINT and SIGTERM raise Interrupted, once; afterwards the handlers are as before.

    Gives a function that says which signal came, None if none did.
    """
    received: list[str] = []

    def interrupt(number: int, frame: object) -> None:
        first = not received
        received.append(signal.Signals(number).name)
        if first:  # a second one finds us closing already
            raise Interrupted

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
