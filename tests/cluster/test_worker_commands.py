"""Commands of workers: to the shard and back, over a real Redis and against the simulator."""

import threading
import time

import pytest
from cluster_tools import until

from crux_sync import Activity, CommandTimeout, ConfigurationError, GatewayClosed, Intents, PayloadTooLarge
from crux_sync.cluster import ClusterGateway, Worker
from crux_sync.cluster.config import agree

pytestmark = pytest.mark.discord(shards=2, max_concurrency=2, members=30)


@pytest.fixture
def name(keys):
    return keys.prefix.split("{")[1].split("}")[0]


@pytest.fixture
def worker(shared_server, name):
    with Worker(shared_server.url, name=name) as worker:
        yield worker


@pytest.fixture
def gateway(discord, shared_server, name):
    """A gateway process with both shards."""
    place = {"redis": shared_server.url, "name": name, "api_url": discord.api_url}
    with ClusterGateway("test", **place, intents=Intents.all()) as gateway:
        assert discord.wait_ready(2)
        yield gateway


def a_guild(discord, shard_id: int):
    return next(iter(discord.world.guilds_of(shard_id, 2)))


@pytest.mark.parametrize("shard_id", [0, 1])
def test_members_of_guilds_of_either_shard(discord, worker, gateway, shard_id):
    guild = a_guild(discord, shard_id)
    expected = {str(member["user"]["id"]) for member in worker.request_guild_members(guild.id)}
    assert len(expected) == 30
    some = sorted(expected)[:3]
    found = worker.request_guild_members(guild.id, user_ids=[*some, "5"])
    assert {member["user"]["id"] for member in found.result()} == set(some)
    assert [str(one) for one in found.not_found] == ["5"]
    assert found.result() == found.result()


def test_a_presence_reaches_every_shard(discord, worker, gateway, client, keys):
    seen: list[int] = []

    @worker.on("PRESENCE_UPDATE")
    def note(event):
        seen.append(event.shard_id)

    worker.update_presence(status="idle", activities=[Activity("chess")])
    sent = {shard_id: one.gateway.shards[shard_id].outbox.sent for shard_id, one in gateway.shards.items()}
    assert sent == {0: 1, 1: 1}
    worker.update_presence(status="dnd", shard_id=1)
    assert gateway.shards[1].gateway.shards[1].outbox.sent == 2
    assert gateway.shards[0].gateway.shards[0].outbox.sent == 1
    assert not discord.violations
    assert list(client.scan_iter(f"{keys.prefix}reply:*")) == []


def test_voice(discord, worker, gateway):
    guild = a_guild(discord, 1)
    channel = next(one["id"] for one in discord.world.guild_create(guild, discord.sessions[1])["channels"])
    assert worker.update_voice_state(guild.id, channel) is None
    answer = worker.update_voice_state(guild.id, None, wait=True)
    assert (answer.guild_id, answer.channel_id) == (str(guild.id), None)


def test_raw(discord, worker, gateway):
    worker.send({"op": 3, "d": {"since": None, "activities": [], "status": "online", "afk": False}}, 1)
    assert gateway.shards[1].gateway.shards[1].outbox.sent == 1


def test_from_a_callback(discord, worker, gateway):
    """A callback may wait for what comes back: it does not come through its own queue."""
    counts: list[int] = []

    @worker.on("TYPING_START")
    def ask(event):
        counts.append(len(worker.request_guild_members(event.data["guild_id"]).result()))

    guild = a_guild(discord, 0)
    discord.dispatch("TYPING_START", {"guild_id": str(guild.id)})
    until(lambda: counts == [30])


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (lambda worker: worker.request_guild_members("no id"), ConfigurationError),
        (lambda worker: worker.request_guild_members(5, query="a"), ConfigurationError),
        (lambda worker: worker.update_presence(status="busy"), ConfigurationError),
        (lambda worker: worker.update_presence({"status": "idle"}, afk=True), ConfigurationError),
        (lambda worker: worker.update_voice_state(1, "x"), ConfigurationError),
        (lambda worker: worker.send({"op": 2, "d": {}}), ConfigurationError),
        (lambda worker: worker.send({"op": 3, "d": "x" * 5000}), PayloadTooLarge),
        (lambda worker: worker.send({"op": 3, "d": {}}, 2), ConfigurationError),
    ],
)
def test_refused_at_the_call(worker, client, keys, command, error):
    agree(client, keys, shards=2)
    with pytest.raises(error):
        command(worker)
    assert list(client.scan_iter(f"{keys.prefix}commands:*")) == []


def test_nobody_answers(worker, client, keys):
    with pytest.raises(GatewayClosed, match="no gateway"):
        worker.update_presence(status="idle")
    agree(client, keys, shards=2)
    began = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"within 0\.4 s"):
        worker.update_presence(status="idle", timeout=0.4)
    assert 0.3 < time.monotonic() - began < 2
    with pytest.raises(CommandTimeout):
        worker.request_guild_members(1 << 22, timeout=0.3).result()


def test_a_command_nobody_waits_for_any_longer_is_not_sent(discord, worker, client, keys, shared_server, name):
    agree(client, keys, shards=2)
    with pytest.raises(CommandTimeout):
        worker.update_presence(status="idle", timeout=0.1)
    place = {"redis": shared_server.url, "name": name, "api_url": discord.api_url}
    with ClusterGateway("test", **place, intents=Intents.all()) as gateway:
        assert discord.wait_ready(2)
        worker.update_presence(status="dnd")  # behind the other in the same streams
        sent = [one.gateway.shards[shard_id].outbox.sent for shard_id, one in gateway.shards.items()]
        assert sent == [1, 1]


def test_what_the_gateway_refuses_is_raised_here(discord, worker, shared_server, name):
    place = {"redis": shared_server.url, "name": name, "api_url": discord.api_url}
    with ClusterGateway("test", **place, intents=Intents.GUILDS):
        assert discord.wait_ready(2)
        with pytest.raises(ConfigurationError, match="GUILD_MEMBERS"):
            worker.request_guild_members(a_guild(discord, 0).id).result()
        with pytest.raises(ConfigurationError, match="GUILD_VOICE_STATES"):
            worker.update_voice_state(a_guild(discord, 0).id, None, wait=True)


def test_closing_ends_the_waiting(client, keys, shared_server, name):
    agree(client, keys, shards=2)
    worker = Worker(shared_server.url, name=name)
    worker.start()
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            worker.update_presence(status="idle")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: client.xlen(keys.commands(1)) == 1)
    worker.close()
    thread.join(3)
    assert [type(error) for error in errors] == [GatewayClosed]
    with pytest.raises(GatewayClosed):
        worker.update_presence(status="idle")
