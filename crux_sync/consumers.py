"""The consumers' side of a gateway: callbacks, subscriptions, iteration, waiting for one event."""

import os
import sys
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from threading import Condition
from typing import Any

from .callbacks import Registry, Workers, check_callable, check_names, create_decoder
from .collecting import Mailbox
from .dispatch import Hub
from .dispatchers import create_dispatcher
from .errors import ConfigurationError, CruxError, CruxWarning, GatewayClosed
from .events import Event
from .intents import advice_for_event
from .options import Options, check_overflow, whole_number
from .registering import Registering
from .subscription import Subscription
from .waiting import Waiter


class Consumers(Registering):
    """What receives events. ``Gateway`` adds what brings them."""

    def __init__(self, options: Options) -> None:
        self._options = options
        #: Guards the phase, the failure and the callbacks' subscription; notified when one of the first two changes.
        self._condition = Condition()
        #: "new", "starting", "running", "closing", "closed"
        self._phase = "new"
        self._failure: BaseException | None = None
        self._process = os.getpid()
        super().__init__(Registry(self._callbacks_changed))
        self._hub = Hub(create_dispatcher(options.dispatcher), self._registry.report)
        self._workers: Workers | None = None
        self._callbacks: Subscription | None = None
        self._callbacks_joined = False
        self._tracks_handled = False
        #: Who waits for an event, and is to be told when there will be none.
        self._waiters: set[Waiter | Mailbox] = set()

    # ---------------------------------------------------------------- callbacks

    def poll(self, max_events: int | None = None) -> int:
        """With ``workers=0``: call the callbacks for what waits, in this thread, never blocking; how many events.

        At most ``max_events``, None: all that wait. Raises ConfigurationError when there are workers.
        """
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
                warnings.warn(advice, CruxWarning, stacklevel=level_of_caller())

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
        Any thread, also before ``start``. Raises ConfigurationError, GatewayClosed.
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
        if self._tracks_handled:
            subscription.queue.track()
        self._hub.join(subscription)
        return subscription

    def __iter__(self) -> Iterator[Event]:
        """``for event in gateway``: every event, in a subscription of its own.

        It ends when the gateway closes and raises what was fatal. Any thread; several at once get
        all events each. Raises GatewayClosed when the gateway is closed already.
        """
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

        It takes the event from no consumer. ``check`` runs in this thread; what it raises is raised here. Any thread,
        also a callback. Raises TimeoutError after ``timeout`` seconds (None: never), GatewayClosed, what was fatal.
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

    # ---------------------------------------------------------------- life, for Gateway

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
        if self._tracks_handled:
            self._callbacks.queue.track()
        self._workers = Workers(self._registry, self._callbacks, options.workers)
        self._callbacks_changed()
        self._workers.start()

    def _is_own_thread(self) -> bool:
        """Whether the current thread is one that close() would wait for."""
        return self._workers is not None and threading.current_thread() in self._workers.threads

    def _track_handled(self) -> None:
        """A persistent store wants to know what is handled: queues remember what was taken from them."""
        self._tracks_handled = True
        for subscription in self._hub:
            subscription.queue.track()

    def _all_consumers(self) -> tuple[Subscription, ...]:
        return tuple(self._hub)

    def _close_consumers(self, deadline: float, *, keep: bool) -> tuple[Subscription, ...]:
        """End every subscription and the workers; the consumers there were.

        ``keep``: what is queued for callbacks stays unhandled, each worker finishes only the event in its hands.
        """
        consumers = self._all_consumers()
        error = self._failure or GatewayClosed("the gateway is closed")
        for waiter in list(self._waiters):
            waiter.fail(error)
        callbacks = self._callbacks
        if callbacks is not None:
            callbacks.queue.close(abandon=keep)
        for subscription in consumers:
            subscription.failure = self._failure
            subscription.close()
        if self._workers is not None:
            self._workers.join_until(deadline)
        if callbacks is not None:
            callbacks.queue.close(abandon=True)
        return consumers

    def _fail_consumers(self, error: BaseException) -> None:
        """A shard failed for good: whoever waits, or iterates over the gateway, hears of it."""
        for waiter in list(self._waiters):
            waiter.fail(error)
        for subscription in self._hub:
            if subscription.ends_on_failure:
                subscription.failure = error
                subscription.queue.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise CruxError(
                "this gateway belongs to the process it was made in; after fork (gunicorn, Celery) make and start one "
                "in each worker that needs it"
            )


def level_of_caller() -> int:
    """The ``stacklevel``, for who asks, of the first caller outside this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    return level


def consume(subscription: Subscription) -> Iterator[Event]:
    """Iterate, and leave when the loop is left."""
    with subscription:
        yield from subscription
