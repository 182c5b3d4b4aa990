"""Functions registered with ``on``: the registry, and the worker threads that call them."""

import inspect
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from threading import Condition, Lock, Thread, current_thread
from typing import Any, TypeVar

import msgspec

from .errors import ConfigurationError
from .events import Event
from .subscription import Subscription, handling

logger = logging.getLogger(__name__)

#: Events a worker takes from the queue under one lock.
TAKE = 256

F = TypeVar("F", bound=Callable[..., object])

ErrorHandler = Callable[[BaseException, Event | None, Any], object]


class Callback:
    """One registered function, the events it wants, and the type it wants their data in."""

    __slots__ = ("call", "decoder", "function", "names", "unspent")

    def __init__(
        self, function: Callable[[Event], object], names: frozenset[str] | None, type: Any, once: bool
    ) -> None:
        self.function = check_callable(function)
        #: What is called: the function, or one around it that measures its time.
        self.call = self.function
        self.names = names
        self.decoder = create_decoder(type)
        #: For ``once``: popping it is the right to be called. List.pop is atomic, so only one worker gets it.
        self.unspent: list[None] | None = [None] if once else None


def check_callable(function: Any) -> Any:
    """Refuse what cannot be called with one event. Raises ConfigurationError."""
    if not callable(function):
        raise ConfigurationError(f"a callback must be callable, not {function!r}")
    called = function if inspect.isroutine(function) else type(function).__call__
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise ConfigurationError(
            f"{name_of(function)} is a coroutine function; crux_sync calls plain functions on threads: "
            "write `def`, not `async def`"
        )
    return function


def create_decoder(type: Any) -> "msgspec.json.Decoder[Any] | None":
    """A decoder for ``type=``: a msgspec Struct, dataclass, TypedDict, or anything msgspec can decode into."""
    if type is None:
        return None
    try:
        # Ids are strings on the wire; a field declared as int takes them all the same.
        return msgspec.json.Decoder(type, strict=False)
    except (TypeError, RuntimeError) as error:
        raise ConfigurationError(f"type={type!r} cannot be decoded into: {error}") from error


def check_names(names: Iterable[Any]) -> frozenset[str] | None:
    """Event names, None for all of them. Raises ConfigurationError."""
    wanted = tuple(names)
    for name in wanted:
        if not isinstance(name, str) or not name:
            hint = "; write @gateway.on(), with parentheses" if callable(name) else ""
            raise ConfigurationError(f"an event name must be a string such as 'MESSAGE_CREATE', not {name!r}{hint}")
    return frozenset(wanted) or None


def name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))


def timed(function: Callable[[Event], object], record: Callable[[str, float], object]) -> Callable[[Event], object]:
    """``function``, with its time told to ``record``."""
    # Not its repr: with the address of an object in it, every object would have a name of its own.
    name = str(getattr(function, "__qualname__", None) or type(function).__qualname__)

    def call(event: Event) -> object:
        started = time.perf_counter()
        try:
            return function(event)
        finally:
            record(name, time.perf_counter() - started)

    return call


def listens(*names: str, type: Any = None, once: bool = False) -> Callable[[F], F]:
    """Mark a method as a callback, for ``gateway.add_callbacks(object)``: callbacks grouped in a class.

    Takes what ``gateway.on`` takes. Raises ConfigurationError.
    """
    check_names(names)

    def decorate(function: F) -> F:
        check_callable(function)
        function.__crux_sync__ = [*getattr(function, "__crux_sync__", ()), (names, type, once)]  # type: ignore[attr-defined]
        return function

    return decorate


class Registry:
    """The callbacks, and for each event type which of them to call, in order of registration. Any thread."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._lock = Lock()
        self._callbacks: tuple[Callback, ...] = ()
        #: Filled as types are met; replaced when the callbacks change.
        self.table = Table(())
        self.error_handlers: tuple[ErrorHandler, ...] = ()
        self._record: Callable[[str, float], object] | None = None

    def time(self, record: Callable[[str, float], object]) -> None:
        """Tell ``record`` how long each callback takes: its name and seconds, for every call from now on."""
        self._record = record
        for callback in self._callbacks:
            callback.call = timed(callback.function, record)

    def add(self, callback: Callback) -> None:
        if self._record is not None:
            callback.call = timed(callback.function, self._record)
        self._replace(lambda callbacks: (*callbacks, callback))

    def remove(self, function: Callable[[Event], object]) -> bool:
        """Remove every registration of ``function``; whether there was one."""
        before = len(self._callbacks)
        # By equality: a bound method is a new object each time it is looked up.
        self._replace(lambda callbacks: tuple(one for one in callbacks if one.function != function))
        return len(self._callbacks) < before

    def discard(self, callback: Callback) -> None:
        self._replace(lambda callbacks: tuple(one for one in callbacks if one is not callback))

    def _replace(self, change: Callable[[tuple[Callback, ...]], tuple[Callback, ...]]) -> None:
        with self._lock:
            self._callbacks = change(self._callbacks)
            self.table = Table(self._callbacks)
        self._changed()

    def __len__(self) -> int:
        return len(self._callbacks)

    @property
    def names(self) -> frozenset[str] | None:
        """Every event name that some callback wants; None: all."""
        names = [callback.names for callback in self._callbacks]
        if None in names:
            return None
        return frozenset().union(*[one for one in names if one is not None])

    def handle(self, event: Event) -> None:
        """Call what wants ``event``. What a callback raises is reported; nothing stops."""
        for callback in self.table[event.type]:
            if callback.unspent is not None:
                try:
                    callback.unspent.pop()
                except IndexError:
                    continue
                self.discard(callback)
            try:
                callback.call(event if callback.decoder is None else event.typed(callback.decoder))
            except BaseException as error:  # SystemExit too: a worker thread serves all callbacks
                self.report(error, event, callback.function)

    def report(self, error: BaseException, event: Event | None, source: Any) -> None:
        """Hand an error of user code to the ``on_error`` functions; without any, log it with its traceback."""
        handlers = self.error_handlers
        for handler in handlers:
            try:
                handler(error, event, source)
            except BaseException:
                logger.exception("on_error function %s failed", name_of(handler))
        if not handlers:
            shard = {"shard": event.shard_id} if event is not None else {}
            logger.error("%s failed for %r", name_of(source), event, exc_info=error, extra=shard)


class Table(dict[str | None, tuple[Callback, ...]]):
    """Event type to callbacks."""

    def __init__(self, callbacks: tuple[Callback, ...]) -> None:
        super().__init__()
        self._callbacks = callbacks

    def __missing__(self, type: str | None) -> tuple[Callback, ...]:
        wanted = tuple(one for one in self._callbacks if one.names is None or type in one.names)
        if len(self) < 1000:
            self[type] = wanted
        return wanted


class Lanes:
    """Deals events to several workers so that events of one key are handled one at a time, in order.

    A worker that takes an event whose key is in work leaves it to whoever works on that key.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._queue = subscription.queue
        #: One worker at a time takes from the queue; the order of taking is the order of the lanes.
        self._intake = Lock()
        self._idle = Condition()
        self._lanes: dict[Hashable, deque[Event]] = {}
        self._waiting = 0

    def take(self) -> tuple[Hashable, Event] | None:
        """The next event whose key nobody works on. None: the queue is closed and drained."""
        with self._intake:
            while True:
                with self._idle:
                    # What waits in lanes counts against the bound of the queue it came from.
                    self._idle.wait_for(self._has_room)
                events = self._queue.take(1)
                if not events:
                    return None
                (event,) = events
                key = event.guild_id or ("shard", event.shard_id)
                with self._idle:
                    lane = self._lanes.get(key)
                    if lane is None:
                        self._lanes[key] = deque()
                        return key, event
                    lane.append(event)
                    self._waiting += 1

    def _has_room(self) -> bool:
        queue = self._queue
        return queue.maxsize <= 0 or self._waiting < queue.maxsize or queue.overcommitted > 0 or queue.abandoned

    def leave(self) -> None:
        """A worker stops in the middle of its lane: let the one at the intake look again."""
        with self._idle:
            self._idle.notify_all()

    def following(self, key: Hashable) -> Event | None:
        """The next event of a key that this worker has just worked on; None: the key is free again."""
        with self._idle:
            lane = self._lanes[key]
            if not lane:
                del self._lanes[key]
                return None
            self._waiting -= 1
            self._idle.notify()
            return lane.popleft()


class Workers:
    """The threads that call callbacks: one takes batches, several keep the order within a guild."""

    def __init__(self, registry: Registry, subscription: Subscription, count: int) -> None:
        self._registry = registry
        self._subscription = subscription
        self._count = count
        self._lanes = Lanes(subscription)
        self.threads: list[Thread] = []

    def start(self) -> None:
        work = self._work if self._count == 1 else self._work_in_lanes
        self.threads = [Thread(target=work, name=f"crux-worker-{number}", daemon=True) for number in range(self._count)]
        for thread in self.threads:
            thread.start()

    def join_until(self, deadline: float) -> None:
        """Wait for the threads, the current one left out, until ``deadline`` (monotonic seconds)."""
        for thread in self.threads:
            if thread is not current_thread():
                thread.join(max(deadline - time.monotonic(), 0.05))

    def poll(self, most: int | None = None) -> int:
        """Handle up to ``most`` of the events that wait, in this thread; how many."""
        queue, handled = self._subscription.queue, 0
        while most is None or handled < most:
            events = queue.take(1, block=False)
            if not events:
                break
            self._handle(events)
            handled += 1
        return handled

    def _work(self) -> None:
        queue = self._subscription.queue
        while events := queue.take(TAKE):
            self._handle(events)

    def _handle(self, events: list[Event]) -> None:
        queue, handle = self._subscription.queue, self._registry.handle
        handling.queue = queue
        if queue.taken is None:
            for event in events:
                handle(event)
            queue.finish(len(events))
        else:
            for event in events:
                if queue.abandoned:
                    return
                handle(event)
                queue.task_done()

    def _work_in_lanes(self) -> None:
        queue, lanes = self._subscription.queue, self._lanes
        while job := lanes.take():
            key: Hashable = job[0]
            event: Event | None = job[1]
            handling.queue = queue
            while event is not None and not queue.abandoned:
                self._registry.handle(event)
                queue.settle(event)
                event = lanes.following(key)
        lanes.leave()
