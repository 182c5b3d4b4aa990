"""Metrics, scraped over HTTP from a running gateway, against what the simulator says it did."""

import re
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
from conftest import eventually
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from crux_sync import ConfigurationError
from crux_sync.callbacks import timed
from crux_sync.metrics import BUCKETS, instrument
from crux_sync.receiving import MOST_TYPES, tally


class Scraper:
    """Prometheus, as far as a test needs it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/metrics"

    def scrape(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Sample name to label values to value."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        answer = requests.get(self.url, timeout=10)
        assert answer.status_code == 200, answer.text
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = (
                    sample.value
                )
        return found

    def value(self, name: str, *labels: str) -> float:
        return self.scrape().get(name, {}).get(labels, 0.0)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def scraper(registry) -> Iterator[Scraper]:
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    yield Scraper(server.server_port)
    server.shutdown()
    server.server_close()
    thread.join()


def sent_types(discord) -> Counter:
    """What the simulator's sessions say they sent, by type."""
    payloads = [one.payload for session in discord.session_history for one in session.events]
    return Counter(re.match(rb'{"t":"(\w+)"', payload)[1].decode() for payload in payloads)


@pytest.mark.discord(shards=3, max_concurrency=2, heartbeat_interval=0.4, identify_period=0.0)
def test_a_scrape_says_what_the_simulator_sent(discord, connect, registry, scraper):
    gateway = connect()
    got = []

    @gateway.on("MESSAGE_CREATE")
    def on_message(event):
        got.append(event)

    instrument(gateway, registry)
    gateway.start()
    assert discord.wait_ready(timeout=30)
    traffic = discord.traffic(1500)
    assert eventually(lambda: traffic.sent > 1000)
    discord.drop(1)
    assert discord.wait_for(lambda: discord.resumes)
    traffic.stop()
    assert eventually(lambda: sum(scraper.scrape()["crux_sync_events_total"].values()) >= discord.sent)
    found = scraper.scrape()
    # Every type, also the many that no callback wants.
    assert {name: count for (name,), count in found["crux_sync_events_total"].items()} == sent_types(discord)
    assert found["crux_sync_shards"] == {("ready",): 3}
    assert set(found["crux_sync_latency_seconds"]) == {("0",), ("1",), ("2",)}
    assert all(0 < latency < 0.4 for latency in found["crux_sync_latency_seconds"].values())
    assert found["crux_sync_resumes_total"] == {("0",): 0, ("1",): 1, ("2",): 0}
    assert found["crux_sync_connections_total"] == {("0",): 1, ("1",): 2, ("2",): 1}
    assert found["crux_sync_reconnects_total"] == {("connection lost", "1"): 1}
    assert found["crux_sync_identifies_left"] == {(): discord.remaining}
    assert found["crux_sync_queue_depth"] == {("the callback queue",): 0}
    for session in discord.sessions:  # the rest is Hello, acks and the like
        size = sum(len(one.payload) for one in session.events)
        inflated = found["crux_sync_inflated_bytes_total"][(str(session.shard_id),)]
        assert size <= inflated < size + 5000
        assert 0 < found["crux_sync_received_bytes_total"][(str(session.shard_id),)] < inflated / 2
    messages = sent_types(discord)["MESSAGE_CREATE"]
    assert eventually(lambda: len(got) == messages)
    (name,) = {labels[0] for labels in found["crux_sync_callback_seconds_count"]}
    assert name.endswith("on_message")
    assert eventually(lambda: scraper.value("crux_sync_callback_seconds_count", name) == messages)


@pytest.mark.discord(allow_violations=True)
def test_reconnects_have_a_reason_of_a_few_words(discord, connect, registry):
    gateway = connect()
    instrument(gateway, registry)
    gateway.start()
    faults = {
        "op 7": lambda: discord.reconnect(0),
        "connection lost": lambda: discord.drop(0),
        "protocol error": lambda: discord.garbage(0),
        "unknown error (4000)": lambda: discord.close_connection(0, 4000, "with words of its own"),
        "unknown code": lambda: discord.close_connection(0, 4999),
    }
    for number, (reason, act) in enumerate(faults.items()):
        assert eventually(lambda: gateway.shards[0].state == "ready" and discord.wait_ready())
        act()
        assert discord.wait_for(lambda count=number: len(discord.resumes) > count, 20), reason
        assert registry.get_sample_value("crux_sync_reconnects_total", {"shard": "0", "reason": reason}) == 1
    gateway.close()  # and that is none
    assert sum(gateway.stats().shards[0].reconnects.values()) == len(faults)


def test_drops_are_counted_and_kept_when_the_consumer_leaves(discord, connect, registry):
    gateway = connect()
    slow = gateway.subscribe("MESSAGE_CREATE", maxsize=5, overflow="drop_newest")
    other = gateway.subscribe("MESSAGE_CREATE", maxsize=2, overflow="drop_oldest")
    instrument(gateway, registry)

    def dropped() -> float | None:
        return registry.get_sample_value("crux_sync_dropped_events_total", {"consumer": "subscription"})

    with gateway:
        assert discord.wait_ready()
        for _ in range(20):
            discord.dispatch("MESSAGE_CREATE")
        assert eventually(lambda: dropped() == 15 + 18)
        assert registry.get_sample_value("crux_sync_queue_depth", {"consumer": "subscription"}) == 5 + 2
        slow.close()
        slow.close()
        assert dropped() == 15 + 18
        other.close()
    assert dropped() == 15 + 18


@pytest.mark.discord(identify_period=0.0)
def test_a_shard_that_is_started_anew_counts_on(discord, connect, registry):
    gateway = connect()
    instrument(gateway, registry)
    with gateway:
        assert discord.wait_ready()
        assert eventually(lambda: registry.get_sample_value("crux_sync_events_total", {"type": "GUILD_CREATE"}) == 2)
        before = gateway.stats().shards[0]
        gateway.stop_shard(0)
        gateway.start_shard(0)
        assert eventually(lambda: registry.get_sample_value("crux_sync_events_total", {"type": "GUILD_CREATE"}) == 4)
        after = gateway.stats().shards[0]
    assert (after.connects, after.types["READY"]) == (before.connects + 1, 2)
    assert after.inflated_bytes > before.inflated_bytes
    assert after.received_bytes > before.received_bytes


def test_callbacks_are_timed_those_that_raise_and_later_ones_too(discord, connect, registry):
    gateway = connect()
    gateway.on_error(lambda *error: None)

    @gateway.on("MESSAGE_CREATE")
    def slow(event):
        threading.Event().wait(0.03)
        raise ValueError("all the same")

    instrument(gateway, registry)

    class Later:
        def __call__(self, event):
            pass

    gateway.on("MESSAGE_CREATE")(Later())
    with gateway:
        assert discord.wait_ready()
        for _ in range(4):
            discord.dispatch("MESSAGE_CREATE")

        def sample(function: str, what: str, **labels: str) -> float | None:
            where = f"{test_callbacks_are_timed_those_that_raise_and_later_ones_too.__name__}.<locals>.{function}"
            return registry.get_sample_value(f"crux_sync_callback_seconds_{what}", {"callback": where} | labels)

        assert eventually(lambda: sample("Later", "count") == 4)
        assert sample("slow", "count") == sample("slow", "bucket", le="+Inf") == 4
        assert sample("slow", "bucket", le="0.025") == 0
        assert 0.12 <= sample("slow", "sum") < 5
        assert sample("Later", "sum") < 0.1
        assert gateway.remove(slow)  # known by itself, not by what measures it


def test_a_registry_takes_one_gateway(connect, registry):
    first, second = connect(), connect()
    collector = instrument(first, registry)
    with pytest.raises(ConfigurationError, match="CollectorRegistry"):
        instrument(second, registry)
    collector.close()
    instrument(second, registry)


def test_a_gateway_that_is_not_measured_counts_no_types_and_builds_no_event_that_nobody_wants(discord, connect):
    with connect() as gateway:
        gateway.subscribe("MESSAGE_CREATE")
        assert discord.wait_ready()
        discord.dispatch("TYPING_START")
        discord.dispatch("MESSAGE_CREATE")
        assert eventually(lambda: gateway.shards[0].sequence == discord.sent)
        assert gateway.stats().shards[0].types == {}
        assert gateway.stats().shards[0].events == 3  # the message, SHARD_CONNECTED and SHARD_READY
        assert gateway._hub.routes["TYPING_START"] is None


def test_invented_types_do_not_fill_the_memory():
    from crux_sync import Event

    types = Counter()
    for number in range(3):
        tally(types, [Event.create(f"INVENTED_{number}_{one}", None) for one in range(MOST_TYPES)])
    tally(types, [Event.create("INVENTED_0_0", None)])
    assert len(types) == MOST_TYPES + 1
    assert (types["OTHER"], types["INVENTED_0_0"]) == (2 * MOST_TYPES, 2)


def test_objects_without_a_name_share_that_of_their_class():
    from functools import partial

    names = []
    for _ in range(2):
        timed(partial(print, end=""), lambda name, seconds: names.append(name))("")
    assert names == ["partial"] * 2
    assert list(BUCKETS) == sorted(BUCKETS)
