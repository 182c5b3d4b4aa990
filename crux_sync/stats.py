"""What ``gateway.stats()`` returns: numbers as they were at one moment."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class ShardStats(NamedTuple):
    """One shard."""

    id: int
    state: str
    #: Seconds from the last heartbeat to its ack.
    latency: float | None
    #: The last sequence received.
    sequence: int | None
    #: Events handed to consumers, the shard's own SHARD_* among them.
    events: int
    #: Connections made, and Resumes that succeeded.
    connects: int
    resumes: int
    #: Commands sent.
    commands: int
    #: Bytes received, and bytes after inflation, on all connections.
    received_bytes: int
    inflated_bytes: int
    #: Its consumers are full and the socket is not read.
    blocked: bool
    #: How often a connection had to be made anew, by cause: ``op 7``, ``no ack``, ``connection lost`` and others.
    reconnects: Mapping[str, int] = MappingProxyType({})
    #: Events by type, since ``gateway.measure`` was called; empty before.
    types: Mapping[str, int] = MappingProxyType({})


class SubscriptionStats(NamedTuple):
    """One consumer."""

    label: str
    waiting: int
    waiting_bytes: int
    delivered: int
    dropped: int


class Stats(NamedTuple):
    """A snapshot of a gateway."""

    shards: Mapping[int, ShardStats]
    subscriptions: tuple[SubscriptionStats, ...]
    #: Events that no consumer got: discarded by a hash, or of a partition without a subscription.
    discarded: int
    #: The longest that the timer thread was late, seconds.
    worst_timer_delay: float
    #: Identifies that may still be sent today; None: not known, as nothing was asked of the API.
    identifies_left: int | None = None
    #: Identifies that may be sent at once, each bucket once in 5 s.
    identify_concurrency: int = 1
    #: Events dropped by overflow policies, by the label of the consumer, those that have left included.
    dropped: Mapping[str, int] = MappingProxyType({})
