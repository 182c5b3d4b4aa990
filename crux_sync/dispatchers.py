"""Who gets an event: dispatchers. What they choose among, and what becomes of it, is in ``dispatch``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from .errors import ConfigurationError
from .events import Event
from .subscription import Subscription


class Dispatcher(ABC):
    """Base for dispatchers of your own: say which of the candidates get an event.

    ``deal`` runs on shard threads, several at a time, with no lock held. What it raises is reported to ``on_error``,
    and the event is dropped.
    """

    #: Events a full consumer could not take may go to another instead.
    exchangeable = False

    @property
    def runs_user_code(self) -> bool:
        """Whether ``deal`` may run code that is not the library's, and so take as long as it likes."""
        return type(self) not in (BroadcastDispatcher, DemandDispatcher)

    @abstractmethod
    def deal(self, event: Event, candidates: Sequence[Subscription]) -> Iterable[Subscription]:
        """Choose among ``candidates``: the open subscriptions whose names and selector match ``event``."""

    def check(self, subscription: Subscription, others: Sequence[Subscription]) -> None:
        """A subscription is about to join ``others``. Raise ConfigurationError to refuse it."""
        if subscription.partition is not None:
            raise ConfigurationError(
                f"partition={subscription.partition!r} needs a PartitionDispatcher, not {type(self).__name__}"
            )


class BroadcastDispatcher(Dispatcher):
    """Every subscription whose names and selector match gets the event. The default; called on shard threads."""

    def deal(self, event: Event, candidates: Sequence[Subscription]) -> Sequence[Subscription]:
        """All of them."""
        return candidates


class DemandDispatcher(Dispatcher):
    """Each event goes to exactly one consumer: the one with the most free room in its queue; ties in turn.

    Called on shard threads. While every queue is full the shards wait, as the overflow policy ``"block"`` says.
    """

    exchangeable = True

    def __init__(self) -> None:
        self._turn = 0

    def deal(self, event: Event, candidates: Sequence[Subscription]) -> Sequence[Subscription]:
        """The one with the most room."""
        # ``room`` leaves out what this batch has dealt already. The turn is a hint: a race on it is harmless.
        best = max(subscription.room for subscription in candidates)
        equal = [subscription for subscription in candidates if subscription.room == best]
        self._turn += 1
        return (equal[self._turn % len(equal)],)


class PartitionDispatcher(Dispatcher):
    """Each event goes to the subscription of its partition: ``gateway.subscribe(partition=...)``.

    ``partitions``: how many (then they are named 0, 1, ...), or their names. ``hash``: a callable that takes an event
    and returns its partition, or None to discard it; by default the guild decides, so that one guild's events stay in
    order on one consumer. A consumer without a partition of its own (callbacks, iteration) gets the partitions
    that nobody has subscribed to. ``hash`` runs on shard threads; what it raises goes to ``on_error``, and so does
    a ConfigurationError when it returns no partition's name.
    """

    def __init__(
        self,
        partitions: int | Iterable[Hashable],
        hash: Callable[[Event], Hashable | None] | None = None,
    ) -> None:
        if isinstance(partitions, bool) or (isinstance(partitions, int) and partitions < 1):
            raise ConfigurationError(f"partitions must be 1 or more, or the names, not {partitions!r}")
        names = range(partitions) if isinstance(partitions, int) else partitions
        self.partitions: tuple[Hashable, ...] = tuple(dict.fromkeys(names))
        if not self.partitions:
            raise ConfigurationError("partitions must name at least one partition")
        if hash is not None and not callable(hash):
            raise ConfigurationError(f"hash must be a callable that takes an event, not {hash!r}")
        self._hash = hash or self.by_guild
        self._hash_is_ours = hash is None

    @property
    def runs_user_code(self) -> bool:
        """With a ``hash`` of the user's, or in a class derived from this one."""
        return not self._hash_is_ours or type(self) is not PartitionDispatcher

    def by_guild(self, event: Event) -> Hashable:
        """The default hash. Events outside guilds count as those of guild 0."""
        return self.partitions[((event.guild_id or 0) >> 22) % len(self.partitions)]

    def deal(self, event: Event, candidates: Sequence[Subscription]) -> Sequence[Subscription]:
        """The one of the event's partition. Raises ConfigurationError for a partition that does not exist."""
        partition = self._hash(event)
        if partition is None:
            return ()
        if partition not in self.partitions:
            raise ConfigurationError(
                f"hash returned {partition!r}, which is none of the partitions {self.partitions!r}"
            )
        for subscription in candidates:
            if subscription.partition == partition:
                return (subscription,)
        return [subscription for subscription in candidates if subscription.partition is None][:1]

    def check(self, subscription: Subscription, others: Sequence[Subscription]) -> None:
        """A partition must be one of those named, and have one subscription."""
        partition = subscription.partition
        if partition is None:
            return
        if partition not in self.partitions:
            raise ConfigurationError(f"partition={partition!r} is none of {self.partitions!r}")
        if any(other.partition == partition for other in others):
            raise ConfigurationError(f"partition={partition!r} has a subscription already; close that one first")


def create_dispatcher(choice: Any) -> Dispatcher:
    """The ``dispatcher=`` option: an instance, a class, or ``(class, options)``. Raises ConfigurationError."""
    options: Mapping[str, Any] = {}
    if isinstance(choice, tuple) and len(choice) == 2 and isinstance(choice[1], Mapping):
        choice, options = choice
    if isinstance(choice, Dispatcher):
        return choice
    if isinstance(choice, type) and issubclass(choice, Dispatcher):
        try:
            return choice(**options)
        except TypeError as error:
            raise ConfigurationError(f"dispatcher {choice.__name__} with options {dict(options)!r}: {error}") from error
    raise ConfigurationError(f"dispatcher must be a Dispatcher, its class, or (class, options), not {choice!r}")
