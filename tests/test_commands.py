"""Commands: validated at the call, answered, within the limits, over broken connections."""

import threading
import time

import pytest
from conftest import eventually

from crux_sync import Activity, CommandTimeout, ConfigurationError, GatewayClosed, Intents, PayloadTooLarge, Presence
from crux_sync import commands as c
from crux_sync.limits import SendBudget
from crux_sync.members import GRACE, MemberCollection
from crux_sync.presence import LONGEST_TEXT

GUILD = 41771983423143937


# ------------------------------------------------------------------ payloads


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: c.snowflake("x", "guild_id"), "guild_id='x'"),
        (lambda: c.snowflake(True, "guild_id"), "guild_id=True"),
        (lambda: c.snowflake(0, "guild_id"), "1 to 2\\*\\*64"),
        (lambda: c.snowflake(2**64, "guild_id"), "1 to 2\\*\\*64"),
        (lambda: c.voice_state_update(1, 2, 1, False), "self_mute=1"),
        (lambda: members(query="a"), "limit=0 with a query"),
        (lambda: members(query="a", limit=101), "limit=101"),
        (lambda: members(query="a", user_ids=[1]), "exclude each other"),
        (lambda: members(user_ids=[]), "at least one id"),
        (lambda: members(user_ids=["x"]), "user_ids='x'"),
        (lambda: members(intents=Intents.default()), "GUILD_MEMBERS"),
        (lambda: members(presences=True, intents=Intents.GUILD_MEMBERS), "GUILD_PRESENCES"),
        (lambda: c.request_channel_info(1, ["name"]), "'name'"),
        (lambda: c.request_channel_info(1, "status"), "must be a list"),
        (lambda: c.raw({"d": 5}), "op=None"),
        (lambda: c.raw({"op": 2, "d": {}}), "IDENTIFY.* belongs to the session"),
        (lambda: c.raw([]), "must be a mapping"),
        (lambda: c.encode({"op": 3, "d": object()}), "written as JSON"),
        (lambda: Presence.of({"status": "x"}), "status='x'"),
        (lambda: Presence.of({"activities": None}), "activities=None"),
        (lambda: Presence.of({"colour": "red"}), "'colour'"),
        (lambda: Presence(since=-1), "since=-1"),
        (lambda: Activity("x" * (LONGEST_TEXT + 1)), "1 to 128"),
        (lambda: Activity("x", type=9), "type=9"),
        (lambda: Activity(type=4), "state must be a text"),
        (lambda: Activity("x", type=1, url="https://example.org"), "twitch"),
    ],
)
def test_rules(build, says):
    with pytest.raises(ConfigurationError, match=says):
        build()


def members(**changes):
    options = {"query": "", "limit": 0, "user_ids": None, "presences": False, "intents": Intents.all()} | changes
    return c.request_guild_members(1, **options)


def test_payloads_have_every_field():
    assert c.presence_update({"activities": [{"name": "chess"}]})["d"] == {
        "since": None,
        "activities": [{"name": "chess", "type": 0}],
        "status": "online",
        "afk": False,
    }
    assert c.voice_state_update(1, None, False, True)["d"]["channel_id"] is None
    assert Activity(type=4, state="here").payload() == {"name": "Custom Status", "type": 4, "state": "here"}
    (payload,) = members()
    assert payload["op"] == 8
    assert len(payload["d"]["nonce"]) <= 32


def test_many_ids_are_split():
    payloads = members(user_ids=range(1, 251))
    assert [len(payload["d"]["user_ids"]) for payload in payloads] == [100, 100, 50]
    assert len({payload["d"]["nonce"] for payload in payloads}) == 3
    ids = [str(2**64 - number) for number in range(1, 400)]
    parts = c.request_soundboard_sounds(ids)
    assert [one for part in parts for one in part] == ids
    assert all(len(c.encode(c.soundboard_payload(part))) <= 4096 for part in parts)


def test_too_large():
    with pytest.raises(PayloadTooLarge, match="4096"):
        c.encode({"op": 3, "d": "x" * 4096})


# ------------------------------------------------------------------ member chunks, pure


def chunk(nonce, index, count, ids=()):
    members = [{"user": {"id": str(one)}} for one in ids]
    return {"guild_id": "1", "nonce": nonce, "chunk_index": index, "chunk_count": count, "members": members}


def test_chunks_in_any_order_and_repeated():
    collection = MemberCollection(members())
    (part,) = collection.due(0.0)
    nonce = part.sending()["d"]["nonce"]
    assert collection.due(0.0) == []
    assert len(collection.feed("GUILD_MEMBERS_CHUNK", chunk(nonce, 1, 2, [3]), 0.0)) == 1
    assert collection.feed("GUILD_MEMBERS_CHUNK", chunk(nonce, 1, 2, [3]), 0.0) == []
    assert collection.feed("GUILD_MEMBERS_CHUNK", chunk("other", 0, 2, [9]), 0.0) == []
    assert not collection.complete
    assert len(collection.feed("GUILD_MEMBERS_CHUNK", chunk(nonce, 0, 2, [1, 3]), 0.0)) == 1
    assert collection.complete


def test_what_is_asked_again():
    collection = MemberCollection(members())
    (part,) = collection.due(0.0)
    first = part.sending()["d"]["nonce"]
    collection.feed("RATE_LIMITED", {"opcode": 8, "retry_after": 12.5, "meta": {"nonce": first}}, 10.0)
    assert collection.next_due() == 22.5
    second = part.sending()["d"]["nonce"]
    assert second != first
    collection.feed("GUILD_MEMBERS_CHUNK", chunk(second, 0, 2, [1]), 30.0)
    collection.feed("SHARD_RESUMED", {}, 40.0)
    assert collection.next_due() == 40.0 + GRACE
    collection.feed("GUILD_MEMBERS_CHUNK", chunk(second, 1, 2, [2]), 41.0)
    assert collection.complete
    assert collection.next_due() is None
    collection = MemberCollection(members())
    collection.due(0.0)[0].sending()
    collection.feed("SHARD_READY", {}, 50.0)
    assert collection.next_due() == 50.0


# ------------------------------------------------------------------ against the simulator


def test_presence_is_set_and_survives_a_new_session(discord, connect, log):
    gateway = connect()
    gateway.on()(log)
    gateway.start()
    assert discord.wait_ready()
    gateway.update_presence(status="idle", activities=[Activity("chess")], shard_id=0)
    assert discord.wait_for(lambda: discord.world.presences)
    assert discord.world.presences[0]["activities"] == [{"name": "chess", "type": 0}]
    assert gateway.presence_for(0)["status"] == "idle"


@pytest.mark.discord(allow_violations=True)  # its clock does not follow ours
def test_presences_beyond_the_limit_are_coalesced(discord, connect):
    gateway = connect()
    gateway.start()
    assert discord.wait_ready()
    assert eventually(lambda: gateway.shards[0].state == "ready")
    for number in range(5):
        gateway.update_presence(status="online", since=number)
    waiting = [
        threading.Thread(target=gateway.update_presence, kwargs={"since": number, "timeout": 40})
        for number in range(6, 9)
    ]
    for thread in waiting:
        thread.start()
    outbox = gateway.shards[0].outbox
    assert eventually(lambda: len(outbox._queue) == 1 and b'"since":' in outbox._queue[0].data)
    gateway.send({"op": 31, "d": {"guild_ids": ["1"]}}, timeout=5)  # is not held up by them
    outbox._presences._times.clear()  # twenty seconds later
    with outbox._condition:
        outbox._condition.notify_all()
    for thread in waiting:
        thread.join(5)
        assert not thread.is_alive()
    assert outbox.sent == 7


def test_members_of_a_large_guild_over_a_lost_connection(discord, connect):
    guild = discord.add_guild(25_000)
    gateway = connect()
    gateway.start()
    assert discord.wait_ready()
    before = discord.sent

    def drop():  # as soon as the chunks are on their way: the reset loses most of them
        assert discord.wait_for(lambda: discord.sent >= before + 25)
        discord.drop(0)

    thread = threading.Thread(target=drop)
    thread.start()
    ids = [member["user"]["id"] for member in gateway.request_guild_members(guild.id, timeout=50)]
    thread.join(5)
    assert len(ids) == len(set(ids)) == 25_000
    assert discord.wait_for(lambda: len(discord.resumes) == 1)


def test_members_by_id_prefix_and_presences(discord, connect):
    guild = discord.add_guild(300)
    gateway = connect()
    gateway.start()
    assert discord.wait_ready()
    ids = [guild.user(number)["id"] for number in range(1, 251)]
    request = gateway.request_guild_members(int(guild.id), user_ids=[*ids, 999999999999999999], presences=True)
    assert sorted(member["user"]["id"] for member in request.result()) == sorted(ids)
    assert request.not_found == ["999999999999999999"]
    assert request.presences
    (chunk,) = gateway.request_guild_members(guild.id, "ada", limit=5).chunks()
    assert len(chunk) == 5
    gateway.request_guild_members(guild.id)  # never read: nothing stays behind
    assert eventually(lambda: not gateway._waiters)


def test_members_that_never_come(discord, connect):
    gateway = connect()
    gateway.start()
    assert discord.wait_ready()
    with pytest.raises(CommandTimeout):
        gateway.request_guild_members(5 << 22, timeout=0.2).result()


@pytest.mark.parametrize("script", ["both", "swapped"])
def test_voice_returns_once_both_events_are_in(discord, connect, script):
    discord.world.voice = script
    gateway = connect()
    gateway.start()
    assert discord.wait_ready()
    guild = next(iter(discord.world.guilds.values()))
    voice = gateway.update_voice_state(guild.id, guild.voice_channel, wait=True)
    assert (voice.session_id, voice.token, voice.endpoint) == (
        discord.sessions[0].session_id,
        "voice-token",
        "voice.test:443",
    )
    assert gateway.update_voice_state(guild.id, None, wait=True).channel_id is None
    discord.world.voice = "none"
    with pytest.raises(CommandTimeout, match="full"):
        gateway.update_voice_state(guild.id, guild.voice_channel, wait=True, timeout=0.2)


def test_sounds_channel_info_and_raw_from_a_callback(discord, connect, log):
    gateway = connect()
    guild = next(iter(discord.world.guilds.values()))

    @gateway.on("SHARD_READY")
    def ready(event):
        gateway.request_soundboard_sounds([guild.id])
        gateway.request_channel_info(guild.id, ["status"])
        gateway.send({"op": 8, "d": {"guild_id": guild.id, "query": "a", "limit": 1}})

    gateway.on()(log)
    gateway.start()
    assert log.has("SOUNDBOARD_SOUNDS")
    assert log.has("CHANNEL_INFO")
    assert log.has("GUILD_MEMBERS_CHUNK")


def test_commands_wait_for_the_session_and_are_sent_once(discord, connect, log):
    discord.delay_hello(0.3)
    gateway = connect()
    gateway.on()(log)
    gateway.start()
    guild = next(iter(discord.world.guilds.values()))
    gateway.request_channel_info(guild.id, ["status"])  # before READY
    assert log.has("CHANNEL_INFO")
    discord.drop(0)
    assert log.has("SHARD_DISCONNECTED")
    gateway.request_channel_info(guild.id, ["status"], timeout=10)
    assert log.has("CHANNEL_INFO", 2)


def test_commands_that_cannot_be_sent(discord, connect):
    discord.delay_hello(None)
    gateway = connect()
    with pytest.raises(GatewayClosed):
        gateway.send({"op": 31, "d": {}})
    gateway.start()
    with pytest.raises(CommandTimeout, match="no session"):
        gateway.send({"op": 31, "d": {}}, timeout=0.05)
    errors = []

    def send():
        try:
            gateway.send({"op": 31, "d": {}})
        except GatewayClosed as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    gateway.close()
    thread.join(5)
    assert len(errors) == 1
    other = connect(url=discord.url, shard_count=9, shards=[2])
    other.start()
    with pytest.raises(ConfigurationError, match="shard 7 does not run here"):
        other.send({"op": 31, "d": {}}, shard_id=7)


@pytest.mark.discord(heartbeat_interval=2.0)
def test_ten_threads_at_full_speed_break_no_rule_and_delay_no_heartbeat(discord, connect):
    gateway = connect()
    gateway.start()
    assert discord.wait_ready()
    guild = next(iter(discord.world.guilds.values()))
    sent, stop = [], threading.Event()

    def hammer():
        while not stop.is_set():
            try:
                gateway.request_channel_info(guild.id, ["status"], timeout=2.5)
            except CommandTimeout:
                return
            sent.append(time.monotonic())

    threads = [threading.Thread(target=hammer) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    stop.set()
    assert len(sent) == SendBudget.commands_per_period(2.0) == 85
    assert discord.peers[0].beats >= 1
    assert gateway._heartbeater.worst_delay < 0.25
    assert discord.violations == []
