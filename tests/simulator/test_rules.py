"""Each rule of protocol sections 17.3, 17.4, 17.6 and 17.7, broken on purpose by a raw client."""

import json
import threading
import zlib

import pytest
import websocket

from crux_sync.simulator import Simulator

QUERY = "/?v=10&encoding=json"


class Client:
    """A raw WebSocket client: JSON in and out, nothing clever."""

    def __init__(self, discord: Simulator, query: str = QUERY, *, hello: bool = True) -> None:
        sslopt = {"context": discord.ssl_context} if discord.ssl_context else None
        self.socket = websocket.create_connection(discord.url + query, timeout=10, sslopt=sslopt)
        self.inflate = zlib.decompressobj()
        if hello:
            assert self.receive()["op"] == 10

    def send(self, op: int, d=None) -> None:
        self.socket.send(json.dumps({"op": op, "d": d}))

    def receive(self) -> dict:
        data = self.socket.recv()
        if isinstance(data, bytes):
            data = self.inflate.decompress(data)
        return json.loads(data)

    def until(self, name: str) -> list[dict]:
        got = [self.receive()]
        while got[-1]["t"] != name:
            got.append(self.receive())
        return got

    def close_code(self) -> int:
        while True:
            opcode, data = self.socket.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(data[:2], "big") if data else 1005

    def identify(self, **changes) -> "Client":
        self.send(2, identify(**changes))
        return self

    def resume(self, session_id: str, seq, token: str = "test") -> "Client":
        self.send(6, {"token": token, "session_id": session_id, "seq": seq})
        return self

    def drop(self) -> None:
        self.socket.sock.close()


def identify(**changes) -> dict:
    properties = {"os": "linux", "browser": "x", "device": "x"}
    data = {"token": "test", "intents": 1, "properties": properties, "shard": [0, 1]} | changes
    return {key: value for key, value in data.items() if value != "absent"}


@pytest.fixture
def client(discord):
    made = []

    def make(*arguments, **options) -> Client:
        made.append(Client(discord, *arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.socket.shutdown()


broken = pytest.mark.discord(allow_violations=True, identify_period=0.0, granted_intents=0)


@broken
@pytest.mark.parametrize(
    ("message", "code", "name"),
    [
        ("x" * 4097, 4002, "payload_too_large"),
        ("nonsense", 4002, "undecodable"),
        ("[]", 4002, "undecodable"),
        ('{"op":"1"}', 4002, "undecodable"),
        ('{"op":true}', 4002, "undecodable"),
        (zlib.compress(b'{"op":1,"d":null}'), 4002, "undecodable"),
        ("[" * 4000, 4002, "undecodable"),
        ('{"op":5,"d":{}}', 4001, "unknown_opcode"),
        ('{"op":0,"d":{}}', 4001, "unknown_opcode"),
        ('{"op":11}', 4001, "unknown_opcode"),
        ('{"op":3,"d":{}}', 4003, "not_authenticated"),
        ('{"op":8,"d":{}}', 4003, "not_authenticated"),
        ('{"op":1,"d":"5"}', 4001, "invalid_payload"),
        ('{"op":2,"d":5}', 4001, "invalid_payload"),
        ('{"op":6,"d":{"token":"test","session_id":"x","seq":"5"}}', 4001, "invalid_payload"),
    ],
)
def test_messages(discord, client, message, code, name):
    one = client()
    (one.socket.send_binary if isinstance(message, bytes) else one.socket.send)(message)
    assert one.close_code() == code
    assert discord.violations == [name]


@broken
@pytest.mark.parametrize(
    ("changes", "code", "name"),
    [
        ({"token": "wrong"}, 4004, "authentication_failed"),
        ({"token": "absent"}, 4004, "authentication_failed"),
        ({"token": "Bot test"}, 4004, "authentication_failed"),
        ({"shard": [1, 1]}, 4010, "invalid_shard"),
        ({"shard": [-1, 1]}, 4010, "invalid_shard"),
        ({"shard": [0]}, 4010, "invalid_shard"),
        ({"shard": "0"}, 4010, "invalid_shard"),
        ({"intents": "absent"}, 4013, "invalid_intents"),
        ({"intents": "1"}, 4013, "invalid_intents"),
        ({"intents": 1 << 17}, 4013, "invalid_intents"),
        ({"intents": 1 << 1}, 4014, "disallowed_intents"),
        ({"intents": 1 << 15}, 4014, "disallowed_intents"),
        ({"properties": "absent"}, 4001, "invalid_payload"),
        ({"large_threshold": 10}, 4001, "invalid_payload"),
        ({"presence": 5}, 4001, "invalid_payload"),
    ],
)
def test_identifies(discord, client, changes, code, name):
    assert client().identify(**changes).close_code() == code
    assert discord.violations == [name]


@pytest.mark.discord(allow_violations=True, assigned_shards=4)
def test_a_large_bot_needs_a_multiple_of_its_count(discord, client):
    assert client().identify(shard=[0, 6]).close_code() == 4010
    client().identify(shard=[0, 8]).until("READY")


@pytest.mark.discord(allow_violations=True, guilds_per_shard=2501, members=1)
def test_too_many_guilds_for_a_shard(discord, client):
    assert client().identify().close_code() == 4011


@broken
@pytest.mark.parametrize("op", [2, 6])
def test_authenticated_twice(discord, client, op):
    one = client().identify()
    one.until("READY")
    one.send(op, identify())
    assert one.close_code() == 4005
    assert discord.violations == ["already_authenticated"]
    assert not discord.sessions


@broken
@pytest.mark.parametrize(
    "command",
    [
        (3, {"since": None, "activities": None, "status": "online", "afk": False}),
        (3, {"activities": [], "status": "online", "afk": False}),
        (3, None),
        (4, {"guild_id": "1"}),
        (8, {"guild_id": "1"}),
        (8, {"guild_id": "1", "query": ""}),
        (31, {}),
        (43, {"guild_id": "x", "fields": []}),
    ],
)
def test_commands_of_the_wrong_shape(discord, client, command):
    one = client().identify()
    one.until("READY")
    one.send(*command)
    assert one.close_code() == 4001
    assert discord.violations == ["invalid_payload"]


@broken
def test_the_121st_payload_in_a_minute(discord, client):
    one = client()
    for _ in range(121):
        one.send(1)
    assert one.close_code() == 4008
    assert discord.violations == ["rate_limited"]


@pytest.mark.discord(allow_violations=True, max_concurrency=1)
def test_a_bucket_used_too_soon(discord, client):
    client().identify(shard=[0, 2]).until("READY")
    two = client().identify(shard=[1, 2])
    assert two.receive() == {"t": None, "s": None, "op": 9, "d": False}
    assert discord.violations == ["identify_concurrency"]
    two.send(1)
    assert two.receive()["op"] == 11  # the connection stays open


@pytest.mark.discord(allow_violations=True, one_owner=True, identify_period=0.0)
def test_who_speaks_after_another_has_its_shard(discord, client):
    one, two, three = client(), client(), client()
    one.identify().until("READY")
    (ready,) = two.identify().until("READY")[-1:]
    two.send(1)
    three.send(6, {"token": "test", "session_id": ready["d"]["session_id"], "seq": 1})
    three.until("RESUMED")
    assert discord.violations == []  # two has not said a word since
    three.send(1)
    one.send(1)
    assert one.close_code() == 4000
    assert discord.violations == ["shard_owned_twice"]
    two.send(1)
    assert two.close_code() == 4000
    assert discord.violations == ["shard_owned_twice"] * 2


@pytest.mark.discord(allow_violations=True, remaining=1, identify_period=0.0)
def test_the_daily_limit_ends_everything(discord, client):
    one = client().identify()
    one.until("READY")
    assert client().identify().close_code() == 4004
    assert discord.violations == ["session_start_limit"]
    assert not discord.sessions
    assert client().identify().close_code() == 4004  # the token is revoked


@pytest.mark.discord(allow_violations=True, heartbeat_interval=0.2, late_heartbeat_code=4000)
def test_a_late_heartbeat(discord, client):
    one = client().identify()
    assert one.close_code() == 4000
    assert discord.violations == ["heartbeat_late"]
    assert discord.sessions[0].peer is None  # kept


@broken
@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("/?v=5&encoding=json", 4012),
        ("/?encoding=json", 4012),
        ("/?v=10&encoding=etf", 4002),
        ("/?v=10&encoding=json&compress=gzip", 4002),
    ],
)
def test_queries(discord, client, query, code):
    assert client(query, hello=False).close_code() == code


# ------------------------------------------------------------------ resumes


def test_a_resume_replays_with_the_original_numbers(discord, client):
    one = client().identify()
    one.until("GUILD_CREATE")
    session = discord.sessions[0].session_id
    one.drop()
    assert discord.wait_for(lambda: discord.sessions[0].peer is None)
    discord.dispatch("CHANNEL_CREATE", {"guild_id": None, "id": "5"})
    discord.dispatch("CHANNEL_CREATE", {"id": "6"})
    got = client().resume(session, 1).until("RESUMED")
    assert [one["s"] for one in got] == list(range(2, 7))
    assert got[-2]["d"]["id"] == "6"


@pytest.mark.discord(allow_violations=True, identify_period=0.0, log_count=3)
@pytest.mark.parametrize("fault", ["unknown", "token", "old", "ahead", "ended", "expired"])
def test_resumes_that_fail(discord, client, fault):
    one = client().identify()
    one.until("GUILD_CREATE")
    session = discord.sessions[0]
    arguments = {"unknown": ("x", 1), "token": (session.session_id, 1, "wrong"), "ahead": (session.session_id, 99)}
    if fault == "ended":
        one.socket.close(1000)
        assert discord.wait_for(lambda: not discord.sessions)
    elif fault == "expired":
        one.drop()
        assert discord.wait_for(lambda: session.peer is None)
        session.detached_at -= 1000
    elif fault == "old":
        for _ in range(5):
            discord.dispatch("CHANNEL_CREATE", {"id": "5"})
    two = client().resume(*arguments.get(fault, (session.session_id, 1)))
    if fault == "ahead":
        assert two.close_code() == 4007
        assert discord.violations == ["invalid_sequence"]
    else:
        assert two.receive() == {"t": None, "s": None, "op": 9, "d": False}
        assert discord.violations == []


def test_a_session_is_adopted_from_another_connection(discord, client):
    one = client().identify()
    one.until("GUILD_CREATE")
    two = client().resume(discord.sessions[0].session_id, 3)
    two.until("RESUMED")
    assert one.close_code() == 4000
    discord.dispatch("CHANNEL_CREATE", {"id": "5"})
    assert two.receive()["t"] == "CHANNEL_CREATE"


@pytest.mark.discord(trim_by_heartbeats=True, identify_period=0.0)
def test_the_log_may_be_trimmed_by_heartbeats(discord, client):
    one = client().identify()
    one.until("GUILD_CREATE")
    session = discord.sessions[0].session_id
    one.send(1, 3)
    assert one.until(None)[-1]["t"] is None
    one.drop()
    assert client().resume(session, 1).receive()["op"] == 9


# ------------------------------------------------------------------ wire


@pytest.mark.discord(tls=True)
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_split_messages_also_inside_the_suffix(discord, pieces):
    discord.split_messages(pieces)
    one = Client(discord, QUERY + "&compress=zlib-stream", hello=False)
    inflate, data, messages = zlib.decompressobj(), b"", []
    for _ in range(pieces):
        messages.append(one.socket.recv())
        data += inflate.decompress(messages[-1])
    assert json.loads(data)["op"] == 10
    if pieces > 1:
        assert messages[-1] == b"\xff\xff"
    one.socket.shutdown()


def test_payload_compression(discord, client):
    one = client()
    one.send(2, identify(compress=True))
    kinds = []
    for _ in range(3):
        opcode, data = one.socket.recv_data()
        kinds.append(opcode)
        assert json.loads(zlib.decompress(data) if opcode == 2 else data)["op"] == 0
    assert 2 in kinds


def test_a_client_that_does_not_read_still_has_its_beats_heard(discord, client):
    one = client().identify(intents=53608447)
    one.until("GUILD_CREATE")
    discord.traffic(20_000)
    pause = threading.Event()
    for _ in range(20):
        one.send(1)
        pause.wait(0.05)
    assert discord.wait_for(lambda: discord.peers[0].beats == 20)
    assert discord.sent > 5000
