"""Gateways of a cluster against the simulator and a real Redis."""

import threading

import pytest
from cluster_tools import GUILD, PARTITIONS, until
from msgspec import Raw
from redis_server import Server, Slow

from crux_sync import ConfigurationError, CruxWarning, Event, Intents
from crux_sync.cluster.client import connect
from crux_sync.cluster.keys import partition_of
from crux_sync.cluster.leases import Lease
from crux_sync.cluster.node import ClusterGateway
from crux_sync.cluster.publisher import StreamPublisher
from crux_sync.simulator import Simulator


class Cluster:
    """Makes gateways that share a name, and closes them."""

    def __init__(self, discord: Simulator, url: str, name: str) -> None:
        self.discord, self.url, self.name = discord, url, name
        self.gateways: list[ClusterGateway] = []

    def join(self, **options) -> ClusterGateway:
        settings = {"lease": 2.0, "margin": 1.0, "intents": Intents.all(), "partitions": PARTITIONS} | options
        gateway = ClusterGateway("test", redis=self.url, name=self.name, api_url=self.discord.api_url, **settings)
        gateway.start()
        self.gateways.append(gateway)
        return gateway

    def shares(self) -> list[int]:
        return sorted(len(gateway.shards) for gateway in self.gateways)

    def close(self) -> None:
        for gateway in self.gateways:
            gateway.close()


@pytest.fixture
def cluster(discord, shared_server, keys):
    cluster = Cluster(discord, shared_server.url, keys.prefix.split("{")[1].split("}")[0])
    yield cluster
    cluster.close()


def entries(client, keys) -> list[dict[bytes, bytes]]:
    """Everything in the streams, in the order of their ids."""
    found = [entry for number in range(PARTITIONS) for entry in client.xrange(keys.events(number))]
    return [fields for _, fields in sorted(found, key=lambda entry: tuple(map(int, entry[0].split(b"-"))))]


def numbers(client, keys) -> list[tuple[bytes, bytes, int]]:
    return [(one[b"i"], one[b"h"], int(one[b"s"])) for one in entries(client, keys)]


@pytest.mark.discord(shards=2, max_concurrency=2)
def test_events_are_published_once_in_order_and_untouched(cluster, discord, client, keys):
    cluster.join()
    discord.wait_ready()
    guild = GUILD
    for number in range(50):
        discord.dispatch("TYPING_START", {"guild_id": guild, "number": number})
    until(lambda: len(entries(client, keys)) == discord.sent)
    typing = [one for one in entries(client, keys) if one[b"t"] == b"TYPING_START"]
    assert [one[b"d"] for one in typing] == [b'{"guild_id":"%s","number":%d}' % (guild.encode(), n) for n in range(50)]
    assert len(set(numbers(client, keys))) == discord.sent
    (partition,) = {
        number for number in range(PARTITIONS) for _, one in client.xrange(keys.events(number)) if one in typing
    }
    assert partition == partition_of(int(guild), 0, PARTITIONS)


@pytest.mark.discord(shards=4, max_concurrency=4, one_owner=True)
def test_shards_are_spread_and_move_without_an_identify(cluster, discord, client, keys):
    cluster.join()
    until(lambda: cluster.shares() == [4])
    discord.wait_ready()
    traffic = discord.traffic(200)
    cluster.join()
    until(lambda: cluster.shares() == [2, 2])
    discord.wait_ready()
    cluster.gateways.pop(0).close()
    until(lambda: cluster.shares() == [4])
    discord.wait_ready()
    traffic.stop()
    until(lambda: len(set(numbers(client, keys))) == discord.sent)
    assert len(numbers(client, keys)) == discord.sent, "something was published twice"
    assert len(discord.identifies) == 4
    assert len(discord.resumes) >= 4


@pytest.mark.discord(shards=1)
def test_redis_killed_and_started_again_loses_nothing(discord, server, keys):
    cluster = Cluster(discord, server.url, "bot")
    try:
        cluster.join(lease=20.0, margin=1.0)
        discord.wait_ready()
        traffic = discord.traffic(300)
        with connect(server.url) as client:
            until(lambda: client.xlen(keys_of(client)) > 50)
            connections = discord.connections
            server.kill()
            threading.Event().wait(1.5)
            server.start()
            traffic.stop()
            until(lambda: total(client) == discord.sent)
            assert discord.connections == connections, "the gateway let go of its connection"
    finally:
        cluster.close()


@pytest.mark.discord(shards=1)
def test_a_paused_redis_holds_the_socket_back_and_loses_nothing(discord, server):
    cluster = Cluster(discord, server.url, "bot")
    try:
        gateway = cluster.join(lease=20.0, margin=1.0, queue_size=100)
        discord.wait_ready()
        with connect(server.url) as client:
            until(lambda: total(client) == discord.sent)  # READY is not replayed, and the permit is given back by then
        connections = discord.connections
        server.pause()
        traffic = discord.traffic(500)
        until(lambda: gateway.shards[0].gateway.stats().shards[0].blocked)
        queue = gateway.shards[0].gateway.stats().subscriptions[0]
        assert queue.waiting <= 100
        traffic.stop()
        server.go_on()
        with connect(server.url) as client:
            until(lambda: total(client) == discord.sent)
        assert discord.connections == connections
    finally:
        cluster.close()


@pytest.mark.discord(shards=1)
def test_a_slow_redis_holds_the_socket_back_and_loses_nothing(discord, shared_server, client, keys):
    with Slow(shared_server.port, 0.3) as slow:
        cluster = Cluster(discord, slow.url, keys.prefix.split("{")[1].split("}")[0])
        try:
            gateway = cluster.join(lease=20.0, margin=1.0, queue_size=100)
            discord.wait_ready()
            until(lambda: len(entries(client, keys)) == discord.sent)
            connections = discord.connections
            for number in range(2000):
                discord.dispatch("TYPING_START", {"guild_id": GUILD, "number": number})
            most = 0
            while len(entries(client, keys)) < discord.sent:
                most = max(most, gateway.shards[0].gateway.stats().subscriptions[0].waiting)
                threading.Event().wait(0.05)
            assert len(set(numbers(client, keys))) == discord.sent
            assert 50 < most <= 100
            assert discord.connections == connections
        finally:
            cluster.close()


@pytest.mark.discord(shards=1)
def test_a_full_stream_is_waited_for(cluster, discord, client, keys):
    cluster.join(queue_size=50, backlog=20)
    discord.wait_ready()
    guild = GUILD
    stream = keys.events(partition_of(int(guild), 0, PARTITIONS))
    for number in range(400):
        discord.dispatch("TYPING_START", {"guild_id": guild, "number": number})
    until(lambda: client.xlen(stream) >= 20)
    seen: list[bytes] = []

    def take() -> bool:
        for entry, fields in client.xrange(stream, count=1000):
            seen.append(fields[b"d"])
            client.xdel(stream, entry)
        return sum(b"number" in text for text in seen) == 400

    until(take, 30)
    typing = [text for text in seen if b"number" in text]
    assert typing == [b'{"guild_id":"%s","number":%d}' % (guild.encode(), n) for n in range(400)]


@pytest.mark.discord(shards=1)
def test_a_gateway_that_lost_its_lease_stops_before_another_starts(cluster, discord, client, keys):
    first = cluster.join()
    until(lambda: first.shards)
    discord.wait_ready()
    shard = first.shards[0]
    client.hset(keys.shard(0), "token", 10**6)  # somebody else has it now, it seems
    until(lambda: first.shards.get(0) is not shard)  # it may get a lease again, once that of the stranger has run out
    assert not shard.lease.valid
    assert shard.gateway.shards[0].state == "stopped"


def test_processes_must_agree(cluster):
    cluster.join()
    with pytest.raises(ConfigurationError, match="partitions=8, but this cluster runs with 4"):
        cluster.join(partitions=8)


@pytest.mark.parametrize("option", ["shards", "session_store", "permitted"])
def test_what_the_cluster_decides_is_not_the_users(option):
    with pytest.raises(ConfigurationError, match=f"{option} is decided"):
        ClusterGateway("test", **{option: None})


def test_a_redis_without_an_append_only_file_is_warned_of(discord, tmp_path):
    server = Server(tmp_path)
    server.start()
    gateway = ClusterGateway("test", redis=server.url, api_url=discord.api_url)
    try:
        with pytest.warns(CruxWarning, match="append-only"):
            gateway.start()
    finally:
        gateway.close()
        server.stop()


def keys_of(client) -> str:
    return next(iter(client.scan_iter("crux:*:events:*")), "none")


def total(client) -> int:
    return sum(client.xlen(key) for key in client.scan_iter("crux:*:events:*"))


def test_what_a_resume_brings_again_is_left_out(client, keys):
    lease = Lease(client, keys.shard(0), keys.tokens, "one")
    assert lease.acquire()
    publisher = StreamPublisher(client, keys, lease, None, (0, 1), PARTITIONS, "a session")

    def publish(*sequences: int) -> None:
        assert publisher._publish([Event(0, "RESUMED", one, Raw(b"{}"), 0, 2) for one in sequences])

    publish(5, 6)
    publish(5, 6, 7)
    assert [int(one[b"s"]) for one in entries(client, keys)] == [5, 6, 7]
    assert (publisher.written, publisher.repeated) == (3, 2)
    ready = Event(0, "READY", 1, Raw(b'{"session_id":"another"}'), 0, 24)
    assert publisher._publish([ready])
    assert [(one[b"i"], int(one[b"s"])) for one in entries(client, keys)][3:] == [(b"another", 1)]
