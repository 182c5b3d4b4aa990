"""Metrics for Prometheus. The only importer of prometheus_client (extra ``metrics``).

::

    from crux_sync.metrics import instrument
    from prometheus_client import start_http_server

    instrument(gateway)
    start_http_server(9464)

Nothing is computed until somebody scrapes: the collector then reads ``gateway.stats()``. While a gateway is
instrumented its shards count events by type, once a batch and each for itself, and its workers time the callbacks.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from threading import Lock

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:  # pragma: no cover
    raise ImportError("crux_sync.metrics needs prometheus-client: pip install 'crux_sync[metrics]'") from error

from .errors import ConfigurationError
from .gateway import Gateway
from .intents import SHARD_EVENTS
from .stats import ShardStats, Stats

__all__ = ["GatewayCollector", "instrument"]

#: Upper bounds of the callback histogram, seconds.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def instrument(gateway: Gateway, registry: CollectorRegistry = REGISTRY) -> "GatewayCollector":
    """Export the metrics of ``gateway`` through ``registry``, before or after its start; any thread.

    A registry takes one gateway, as the names are fixed: raises ConfigurationError for a second one. ``close()`` of
    what is returned takes it out again.
    """
    collector = GatewayCollector(gateway, registry)
    try:
        registry.register(collector)
    except ValueError as error:
        raise ConfigurationError("this registry has a gateway already: give the other a CollectorRegistry()") from error
    gateway.measure(collector.callback_time)
    return collector


class Histogram:
    """How often a value fell under each bound. Callbacks share one a name; its lock is held for an addition."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        index = bisect_left(BUCKETS, value)
        with self._lock:
            self._counts[index] += 1
            self._sum += value

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative buckets, as Prometheus wants them, and the sum."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(counts)), strict=True)), total


class GatewayCollector(Collector):
    """What ``instrument`` returns: a prometheus_client collector over one gateway. Any thread may use it."""

    def __init__(self, gateway: Gateway, registry: CollectorRegistry) -> None:
        self._gateway = gateway
        self._registry = registry
        self._callbacks: dict[str, Histogram] = {}

    def callback_time(self, name: str, seconds: float) -> None:
        """One call of a callback. Called by the gateway's workers."""
        histogram = self._callbacks.get(name)
        if histogram is None:
            histogram = self._callbacks.setdefault(name, Histogram())
        histogram.add(seconds)

    def close(self) -> None:
        """Take the metrics out of the registry."""
        self._registry.unregister(self)

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now. Called by the registry at each scrape."""
        stats = self._gateway.stats()
        yield from shard_metrics(list(stats.shards.values()))
        yield from gateway_metrics(stats)
        yield self._callback_metric()

    def describe(self) -> Iterator[Metric]:
        """The names, for the registry's check that they are free."""
        yield from shard_metrics([])
        yield from gateway_metrics(Stats({}, (), 0, 0.0, 0))
        yield self._callback_metric()

    def _callback_metric(self) -> Metric:
        metric = HistogramMetricFamily(
            "crux_sync_callback_seconds", "Time that callbacks take, by name of the function.", labels=["callback"]
        )
        for name, histogram in list(self._callbacks.items()):
            buckets, total = histogram.read()
            metric.add_metric([name], buckets=buckets, sum_value=total)
        return metric


#: Counters of a shard: name, help, value.
SHARD_COUNTERS: tuple[tuple[str, str, Callable[[ShardStats], int]], ...] = (
    ("received_bytes", "Bytes received, before inflation, WebSocket frames included.", lambda s: s.received_bytes),
    ("inflated_bytes", "Bytes of JSON after inflation.", lambda s: s.inflated_bytes),
    ("connections", "Connections made.", lambda s: s.connects),
    ("resumes", "Resumes that succeeded.", lambda s: s.resumes),
    ("commands", "Commands sent.", lambda s: s.commands),
)


def shard_metrics(shards: list[ShardStats]) -> Iterator[Metric]:
    """What is known of each shard."""
    latency = GaugeMetricFamily(
        "crux_sync_latency_seconds", "From the last heartbeat to its ack.", labels=["shard"], unit="seconds"
    )
    for shard in shards:
        if shard.latency is not None:
            latency.add_metric([str(shard.id)], shard.latency)
    yield latency
    states = GaugeMetricFamily("crux_sync_shards", "Shards in each state.", labels=["state"])
    for state, number in Counter(shard.state for shard in shards).items():
        states.add_metric([str(state)], number)
    yield states
    for name, text, value in SHARD_COUNTERS:
        counter = CounterMetricFamily(f"crux_sync_{name}", text, labels=["shard"])
        for shard in shards:
            counter.add_metric([str(shard.id)], value(shard))
        yield counter
    reconnects = CounterMetricFamily(
        "crux_sync_reconnects", "Connections that had to be made anew, by cause.", labels=["shard", "reason"]
    )
    for shard in shards:
        for reason, number in shard.reconnects.items():
            reconnects.add_metric([str(shard.id), reason], number)
    yield reconnects
    yield event_metric(shards)


def event_metric(shards: Iterable[ShardStats]) -> Metric:
    """Events by type, over all shards: by shard and type they would be too many series."""
    events = CounterMetricFamily("crux_sync_events", "Events received from Discord, by type.", labels=["type"])
    total: Counter[str] = Counter()
    for shard in shards:
        total.update(shard.types)
    for name, number in total.items():
        if name not in SHARD_EVENTS:  # of our own making
            events.add_metric([name], number)
    return events


def gateway_metrics(stats: Stats) -> Iterator[Metric]:
    """Queues, drops, the allowance of identifies, the timer."""
    depth = GaugeMetricFamily("crux_sync_queue_depth", "Events that wait in queues.", labels=["consumer"])
    weight = GaugeMetricFamily("crux_sync_queue_bytes", "Bytes of JSON that wait in queues.", labels=["consumer"])
    waiting: Counter[str] = Counter()
    waiting_bytes: Counter[str] = Counter()
    for one in stats.subscriptions:  # several may have the same label
        waiting[one.label] += one.waiting
        waiting_bytes[one.label] += one.waiting_bytes
    for label, number in waiting.items():
        depth.add_metric([label], number)
        weight.add_metric([label], waiting_bytes[label])
    yield depth
    yield weight
    dropped = CounterMetricFamily("crux_sync_dropped_events", "Events dropped: a queue was full.", labels=["consumer"])
    for label, number in stats.dropped.items():
        dropped.add_metric([label], number)
    yield dropped
    discarded = CounterMetricFamily("crux_sync_discarded_events", "Events that the dispatcher gave to nobody.")
    discarded.add_metric([], stats.discarded)
    yield discarded
    if stats.identifies_left is not None:
        left = GaugeMetricFamily("crux_sync_identifies_left", "Session starts that may still be used today.")
        left.add_metric([], stats.identifies_left)
        yield left
    delay = GaugeMetricFamily("crux_sync_worst_timer_delay_seconds", "The latest that a heartbeat was ever considered.")
    delay.add_metric([], stats.worst_timer_delay)
    yield delay
