"""How events are dealt out: the routes, and the hub between shards and consumers.

A shard publishes a batch; the routes say who could get each event; the dispatcher says who does; each queue takes what
it has room for; and only then does the shard wait for those that are full. Observers (``wait_for``, member collection)
see every event before it is dealt, take it from nobody and never block.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from threading import Condition, Lock
from typing import Any, NamedTuple, Protocol

from .dispatchers import BroadcastDispatcher, Dispatcher
from .events import Event
from .subscription import Subscription

logger = logging.getLogger(__name__)

Report = Callable[[BaseException, Event | None, Any], None]

#: Consumers, and the events for each that it had no room for.
Rest = list[tuple[Subscription, Sequence[Event]]]


class Gate(Protocol):
    """The publishing shard, as the hub sees it."""

    def cancelled(self) -> bool:
        """The shard is to stop now: do not wait for room any longer."""

    def blocking(self) -> AbstractContextManager[None]:
        """Entered while the shard waits for consumers and does not read its socket."""


class Observer(Protocol):
    """Sees events on a shard's thread, not always their own shard's; must be quick and never block."""

    names: frozenset[str] | None

    def observe(self, event: Event) -> None: ...


# -------------------------------------------------------------------- routes


class Route(NamedTuple):
    """Who could get the events of one type."""

    subscriptions: tuple[Subscription, ...]
    observers: tuple[Observer, ...]


class Routes(dict[str | None, Route]):
    """Event type to Route, filled as types are met. Never changed otherwise: the hub replaces it whole."""

    def __init__(
        self,
        subscriptions: tuple[Subscription, ...],
        observers: tuple[Observer, ...],
        *,
        everything: bool = False,
        user_code: bool = False,
    ) -> None:
        super().__init__()
        self.subscriptions = subscriptions
        self.observers = observers
        #: Dealing events out runs functions of the user's: a selector, a hash, a dispatcher.
        self.user_code = user_code
        #: Also what nobody wants takes its way, to be counted.
        self.everything = everything

    def __missing__(self, type: str | None) -> Route | None:
        route = Route(
            tuple(one for one in self.subscriptions if one.names is None or type in one.names),
            tuple(one for one in self.observers if one.names is None or type in one.names),
        )
        wanted = route if self.everything or route.subscriptions or route.observers else None
        if len(self) < 1000:  # a server that invents names must not fill our memory
            self[type] = wanted  # type: ignore[assignment]
        return wanted


# -------------------------------------------------------------------- hub


class Hub:
    """Between shards and consumers. ``publish`` is called by many shards at once; joining and leaving by any thread."""

    def __init__(self, dispatcher: Dispatcher, report: Report) -> None:
        self.dispatcher = dispatcher
        self.report = report
        #: Replaced, never changed, under ``_lock``; read without it.
        self.routes = Routes((), ())
        self._lock = Lock()
        self._room = Condition()
        self._shards_waiting = 0
        #: Events that no consumer got: discarded by the hash, or of a partition without a subscription.
        self.discarded = 0
        #: Shards count events by type.
        self.measured = False
        #: Events that subscriptions which have left had dropped, by label.
        self._dropped: Counter[str] = Counter()

    # ---------------------------------------------------------------- joining and leaving

    def join(self, subscription: Subscription) -> None:
        """Add a subscription: it gets every event published from now on. Raises ConfigurationError."""
        with self._lock:
            known = self.routes.subscriptions
            self.dispatcher.check(subscription, known)
            self._dropped[subscription.label] -= subscription.dropped  # of an earlier stay
            self._route((*known, subscription), self.routes.observers)

    def use(self, dispatcher: Dispatcher) -> None:
        """Another dispatcher, before the first event. Raises ConfigurationError when a subscription does not fit."""
        with self._lock:
            for index, subscription in enumerate(self.routes.subscriptions):
                dispatcher.check(subscription, self.routes.subscriptions[:index])
            self.dispatcher = dispatcher
            self._route(self.routes.subscriptions, self.routes.observers)

    def leave(self, subscription: Subscription) -> None:
        with self._lock:
            known = self.routes.subscriptions
            rest = tuple(one for one in known if one is not subscription)
            if len(rest) < len(known):
                self._dropped[subscription.label] += subscription.dropped
            self._route(rest, self.routes.observers)
        self.room_made()

    def refresh(self) -> None:
        """The names that a subscription wants have changed."""
        with self._lock:
            self._route(self.routes.subscriptions, self.routes.observers)

    def observe(self, observer: Observer) -> None:
        with self._lock:
            self._route(self.routes.subscriptions, (*self.routes.observers, observer))

    def unobserve(self, observer: Observer) -> None:
        with self._lock:
            rest = tuple(one for one in self.routes.observers if one is not observer)
            self._route(self.routes.subscriptions, rest)

    def measure(self) -> None:
        """From now on every event is seen, and counted by its shard."""
        with self._lock:
            self.measured = True
            self._route(self.routes.subscriptions, self.routes.observers)

    def _route(self, subscriptions: tuple[Subscription, ...], observers: tuple[Observer, ...]) -> None:
        user_code = self.dispatcher.runs_user_code or any(one.selector is not None for one in subscriptions)
        self.routes = Routes(subscriptions, observers, everything=self.measured, user_code=user_code)

    def dropped(self) -> dict[str, int]:
        """Events dropped by overflow policies, by label, over all time."""
        with self._lock:
            counts = self._dropped.copy()
            for subscription in self.routes.subscriptions:
                counts[subscription.label] += subscription.dropped
        return {label: count for label, count in counts.items() if count}

    # ---------------------------------------------------------------- publishing

    def publish(self, events: Sequence[Event], gate: Gate) -> bool:
        """Deal ``events`` out, waiting for full consumers. False: cancelled while waiting, some are not delivered."""
        rest = self.offer(events, self.routes)
        return not rest or self.deliver(rest, gate)

    def offer(self, events: Sequence[Event], routes: Routes) -> Rest:
        """Deal ``events`` out by these routes and wait for nobody; what full consumers did not take."""
        if routes.observers:
            self._show(events, routes)
        if len(routes.subscriptions) == 1 and self._takes_all(routes.subscriptions[0]):
            (only,) = routes.subscriptions
            wanted = events if only.names is None else [one for one in events if one.type in only.names]
            taken = only.deliver(wanted)
            return [(only, wanted[taken:])] if taken < len(wanted) else []
        return self._deliver(self._plan(events, routes))

    def _takes_all(self, subscription: Subscription) -> bool:
        return type(self.dispatcher) is BroadcastDispatcher and subscription.selector is None

    def _show(self, events: Sequence[Event], routes: Routes) -> None:
        for event in events:
            route = routes[event.type]
            for observer in route.observers if route is not None else ():
                observer.observe(event)

    def _plan(self, events: Sequence[Event], routes: Routes) -> dict[Subscription, list[Event]]:
        shares: dict[Subscription, list[Event]] = {}
        for event in events:
            route = routes[event.type]
            if route is None:
                continue
            for subscription in self._choose(event, route.subscriptions):
                shares.setdefault(subscription, []).append(event)
                subscription.promised += 1
        for subscription in shares:
            subscription.promised = 0
        return shares

    def _choose(self, event: Event, subscriptions: tuple[Subscription, ...]) -> Iterable[Subscription]:
        candidates: Sequence[Subscription] = [
            one for one in subscriptions if one.selector is None or self._selected(one, event)
        ]
        if not candidates:
            return ()
        try:
            chosen = self.dispatcher.deal(event, candidates)
            chosen = chosen if isinstance(chosen, Sequence) else tuple(chosen)
        except Exception as error:
            self.report(error, event, self.dispatcher)
            chosen = ()
        if not chosen:
            self.discarded += 1
        return chosen

    def _selected(self, subscription: Subscription, event: Event) -> bool:
        assert subscription.selector is not None
        try:
            return bool(subscription.selector(event))
        except Exception as error:
            self.report(error, event, subscription.selector)
            return False

    def _deliver(self, shares: Mapping[Subscription, Sequence[Event]]) -> Rest:
        """Give each its share; what did not fit."""
        rest: Rest = []
        for subscription, share in shares.items():
            taken = subscription.deliver(share)
            if taken < len(share):
                rest.append((subscription, share[taken:]))
        return rest

    def deliver(self, rest: Rest, gate: Gate) -> bool:
        """Wait until the full ones have room again; meanwhile the socket is not read and TCP pushes back.

        False: cancelled while waiting, some are not delivered.
        """
        with gate.blocking():
            while rest:
                if not self._wait_for_room(rest, gate):
                    return False
                if self.dispatcher.exchangeable:
                    events = [event for _, share in rest for event in share]
                    rest = self._deliver(self._plan(events, self.routes))
                else:
                    rest = self._deliver(dict(rest))
        return True

    def _wait_for_room(self, rest: Rest, gate: Gate) -> bool:
        exchangeable = self.dispatcher.exchangeable

        def possible() -> bool:
            waiting = self.routes.subscriptions if exchangeable else [subscription for subscription, _ in rest]
            return gate.cancelled() or not waiting or any(one.has_space for one in waiting)

        with self._room:
            self._shards_waiting += 1
            try:
                self._room.wait_for(possible)
            finally:
                self._shards_waiting -= 1
        return not gate.cancelled()

    def room_made(self) -> None:
        """A consumer took events, closed, or a shard is to stop: whoever waits should look again."""
        # Seen without the lock: a shard announces itself before it looks for room, a consumer looks after making it.
        if self._shards_waiting:
            with self._room:
                self._room.notify_all()

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self.routes.subscriptions)
