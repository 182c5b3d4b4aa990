"""The world: deterministic, filtered by intents, and able to make every event."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crux_sync.intents import EVENT_INTENTS, Intents
from crux_sync.simulator.core import Close, Core, Send, Settings
from crux_sync.simulator.payloads import Maker
from crux_sync.simulator.routing import blank_content

ALL = Intents.all()


def core(**settings) -> Core:
    return Core(Settings(**{"max_concurrency": 16, "identify_period": 0.0} | settings), lambda: "ws://test")


def identified(one: Core, shard=(0, 1), intents=ALL, threshold=50, now=0.0):
    peer, _ = one.connect({"v": "10", "encoding": "json"}, now)
    data = {
        "token": "test",
        "intents": int(intents),
        "properties": {},
        "shard": list(shard),
        "large_threshold": threshold,
    }
    return peer, payloads(one.receive(peer, json.dumps({"op": 2, "d": data}).encode(), now))


def payloads(outputs) -> list[dict]:
    return [json.loads(output.payload) for output in outputs if isinstance(output, Send)]


def command(one: Core, peer, op: int, data: dict, now=0.0) -> list[dict]:
    return payloads(one.receive(peer, json.dumps({"op": op, "d": data}).encode(), now))


def test_the_same_seed_gives_the_same_bytes():
    def world(seed):
        one = core(seed=seed, shards=2)
        _, first = identified(one, (0, 2))
        return json.dumps(first), json.dumps([Maker(one.world, one.world._random).make(name) for name in EVENT_INTENTS])

    assert world(5) == world(5)
    assert world(5) != world(6)


def test_all_79_events_can_be_made_and_reach_a_session():
    one = core()
    identified(one)
    assert len(EVENT_INTENTS) == 79
    maker = Maker(one.world, one.world._random)
    for name in EVENT_INTENTS:
        outputs = payloads(one.dispatch(name, maker.make(name), 0.0))
        assert [output["t"] for output in outputs] == [name], name


@pytest.mark.parametrize("name", [name for name, needed in EVENT_INTENTS.items() if needed])
def test_intents_filter(name):
    one = core()
    identified(one, intents=Intents.none())
    data = Maker(one.world, one.world._random).make(name)
    assert one.dispatch(name, data, 0.0) == []


def test_guild_and_direct_intents_are_apart():
    one = core()
    identified(one, intents=Intents.DIRECT_MESSAGES)
    assert not one.dispatch("MESSAGE_CREATE", {"guild_id": "1", "content": "x"}, 0.0)
    assert one.dispatch("MESSAGE_CREATE", {"content": "x"}, 0.0)


def test_content_is_blank_without_its_intent():
    data = {"guild_id": "1", "content": "x", "embeds": [1], "poll": {}, "author": {"id": "2"}, "mentions": []}
    one = core()
    identified(one, intents=Intents.default())
    (sent,) = payloads(one.dispatch("MESSAGE_CREATE", data, 0.0))
    assert (sent["d"]["content"], sent["d"]["embeds"], "poll" in sent["d"]) == ("", [], False)
    assert blank_content(data | {"mentions": [{"id": "9"}]}, "9")["content"] == "x"
    assert blank_content(data, "2")["content"] == "x"
    direct = {key: value for key, value in data.items() if key != "guild_id"}
    assert payloads(one.dispatch("MESSAGE_CREATE", direct, 0.0))[0]["d"]["content"] == "x"


@pytest.mark.parametrize(
    ("intents", "members", "threshold", "expected"),
    [
        (Intents.GUILDS, 40, 50, (2, 2)),
        (Intents.GUILDS | Intents.GUILD_PRESENCES, 40, 50, (40, 40)),
        (Intents.GUILDS | Intents.GUILD_PRESENCES, 60, 50, (50, 40)),
        (Intents.GUILDS | Intents.GUILD_PRESENCES, 60, 60, (60, 60)),
        (Intents.GUILDS | Intents.GUILD_PRESENCES, 80_000, 250, (2, 2)),
    ],
)
def test_members_and_presences_of_guild_create(intents, members, threshold, expected):
    one = core(members=members, guilds_per_shard=1)
    _, sent = identified(one, intents=intents, threshold=threshold)
    guild = sent[1]["d"]
    assert (len(guild["members"]), len(guild["presences"])) == expected
    assert guild["large"] is (members > threshold)


@given(shard_count=st.integers(min_value=1, max_value=40))
def test_each_guild_is_on_its_shard(shard_count):
    one = core(shards=shard_count)
    seen = [guild.id for shard_id in range(shard_count) for guild in one.world.guilds_of(shard_id, shard_count)]
    assert len(seen) == len(set(seen)) == 2 * shard_count
    assert all(len(one.world.guilds_of(shard_id, shard_count)) == 2 for shard_id in range(shard_count))


# ------------------------------------------------------------------ commands


def test_all_members_in_chunks_once_in_thirty_seconds():
    one = core(members=2500, guilds_per_shard=1)
    peer, _ = identified(one)
    guild_id = one.world.guilds_of(0, 1)[0].id
    request = {"guild_id": guild_id, "query": "", "limit": 0, "nonce": "n", "presences": True}
    chunks = command(one, peer, 8, request)
    assert [(c["d"]["chunk_index"], c["d"]["chunk_count"], len(c["d"]["members"])) for c in chunks] == [
        (0, 3, 1000),
        (1, 3, 1000),
        (2, 3, 500),
    ]
    assert {c["d"]["nonce"] for c in chunks} == {"n"}
    assert all(c["d"]["presences"] for c in chunks)
    (limited,) = command(one, peer, 8, request, now=10.0)
    assert (limited["t"], limited["d"]["retry_after"], limited["d"]["meta"]["nonce"]) == ("RATE_LIMITED", 20.0, "n")
    assert len(command(one, peer, 8, request, now=30.0)) == 3


def test_members_by_prefix_and_id():
    one = core(members=200, guilds_per_shard=1)
    peer, _ = identified(one)
    guild = one.world.guilds_of(0, 1)[0]
    (chunk,) = command(one, peer, 8, {"guild_id": guild.id, "query": "ADA", "limit": 3, "nonce": "x" * 33})
    assert [m["user"]["username"][:3] for m in chunk["d"]["members"]] == ["ada"] * 3
    assert "nonce" not in chunk["d"]
    wanted = guild.user(5)["id"]
    (chunk,) = command(one, peer, 8, {"guild_id": guild.id, "user_ids": [wanted, "123123", "99999999999999999"]})
    assert [m["user"]["id"] for m in chunk["d"]["members"]] == [wanted]
    assert chunk["d"]["not_found"] == [123123, "99999999999999999"]
    (none,) = command(one, peer, 8, {"guild_id": guild.id, "query": "zzz", "limit": 1})
    assert (none["d"]["members"], none["d"]["chunk_count"]) == ([], 1)


def test_all_members_without_the_intent_get_no_answer():
    one = core()
    peer, _ = identified(one, intents=Intents.default())
    guild = one.world.guilds_of(0, 1)[0]
    assert command(one, peer, 8, {"guild_id": guild.id, "query": "", "limit": 0}) == []
    assert one.violations == ["all_members_without_intent"]


def test_voice_soundboard_and_channel_info():
    one = core()
    peer, _ = identified(one)
    guild = one.world.guilds_of(0, 1)[0]
    join = {"guild_id": guild.id, "channel_id": guild.voice_channel, "self_mute": False, "self_deaf": True}
    state, server = command(one, peer, 4, join)
    assert (state["t"], server["t"]) == ("VOICE_STATE_UPDATE", "VOICE_SERVER_UPDATE")
    assert state["d"]["session_id"] == peer.session.session_id
    one.world.voice = "swapped"
    assert [sent["t"] for sent in command(one, peer, 4, join)] == ["VOICE_SERVER_UPDATE", "VOICE_STATE_UPDATE"]
    one.world.voice = "none"
    assert command(one, peer, 4, join) == []
    one.world.voice = "both"
    assert [sent["t"] for sent in command(one, peer, 4, join | {"channel_id": None})] == ["VOICE_STATE_UPDATE"]
    assert [s["t"] for s in command(one, peer, 31, {"guild_ids": [guild.id, "5"]})] == ["SOUNDBOARD_SOUNDS"]
    (info,) = command(one, peer, 43, {"guild_id": guild.id, "fields": ["status"]})
    assert list(info["d"]["channels"][0]) == ["id", "status"]


def test_presences_beyond_five_in_twenty_seconds():
    one = core()
    peer, _ = identified(one)
    presence = {"since": None, "activities": [], "status": "idle", "afk": False}
    for second in range(6):
        command(one, peer, 3, presence | {"since": second}, now=float(second))
    assert one.violations == ["presence_rate"]
    assert one.world.presences[0]["since"] == 4


# ------------------------------------------------------------------ fuzz

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["op", "d", "token", "shard", "intents", "guild_id", "query", "limit", "user_ids", "seq", "x"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=10,
)


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 4, 6, 8, 31, 43, 7]), json_values) | st.binary(max_size=40), max_size=8
    )
)
def test_no_message_breaks_the_core(messages):
    one = core()
    peer, _ = identified(one)
    for message in messages:
        data = message if isinstance(message, bytes) else json.dumps({"op": message[0], "d": message[1]}).encode()
        for output in one.receive(peer, data, 0.0):
            assert isinstance(output, Send | Close)
