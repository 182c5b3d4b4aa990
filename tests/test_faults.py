"""The resume matrix: what becomes of the session after every fault, with every event numbered.

Outcomes: "resume" (the same session, nothing lost), "identify" (a new session), "goes on" (the same connection), or
the name of the fatal error.
"""

import socket
import threading

import pytest
from conftest import eventually

from crux_sync import errors
from crux_sync.close_codes import CLOSE_POLICY, Outcome
from crux_sync.limits import LocalIdentifyLimiter

CODES = {
    code: policy.error.__name__ if policy.error else "identify" if policy.outcome is Outcome.IDENTIFY else "resume"
    for code, policy in CLOSE_POLICY.items()
    if code not in (1005, 1006, 4006, 4008)
} | {0: "resume", 4999: "resume"}

FAULTS = {
    "op 7": (lambda discord: discord.reconnect(0), "resume"),
    "op 9 true": (lambda discord: discord.invalidate(0, resumable=True), "resume"),
    "op 9 false": (lambda discord: discord.invalidate(0), "identify"),
    "tcp reset": (lambda discord: discord.drop(0), "resume"),
    "end of stream": (lambda discord: discord.end_connection(0), "resume"),
    "no acks": (lambda discord: discord.stop_acks(0), "resume"),
    "half-open": (lambda discord: discord.half_open(0), "resume"),
    "stall in mid-frame": (lambda discord: discord.stall(0), "resume"),
    "garbage": (lambda discord: discord.garbage(0), "resume"),
    "truncated deflate": (lambda discord: discord.truncate_deflate(0), "resume"),
    "invalid json": (lambda discord: discord.invalid_json(0), "resume"),
    "session expired": (lambda discord: (discord.drop(0), discord.end_session(0)), "identify"),
    "op 1": (lambda discord: discord.request_heartbeat(0), "goes on"),
    "invalid utf-8": (lambda discord: discord.invalid_utf8(0), "goes on"),
    "unknown opcode": (lambda discord: discord.unknown_opcode(0), "goes on"),
    "unknown event": (lambda discord: discord.unknown_event(0), "goes on"),
    "array": (lambda discord: discord.array_data(0), "goes on"),
    "bare envelope": (lambda discord: discord.bare_envelope(0), "goes on"),
    "large message": (lambda discord: discord.large_message(0), "goes on"),
    "gap": (lambda discord: discord.skip_sequence(0, 3), "goes on"),
}

matrix = pytest.mark.discord(
    allow_violations=True, heartbeat_interval=0.5, heartbeat_tolerance=20, identify_period=0.0, session_expiry=60
)


@pytest.fixture
def quick(connect):
    """Gateways that do not wait five seconds between identifies."""
    return lambda **options: connect(identify_limiter=LocalIdentifyLimiter(1, period=0.0), **options)


def flood(discord, count: int) -> None:
    for number in range(count):
        discord.dispatch("TYPING_START", {"guild_id": "1", "n": number})


def watch(gateway, log):
    gateway.on()(log)
    gateway.on_error(lambda error, event, source: None)
    gateway.start()
    assert log.has("GUILD_CREATE", 2)


def check(discord, gateway, log, outcome: str) -> None:
    if outcome in vars(errors):
        with pytest.raises(getattr(errors, outcome)):
            gateway.join(timeout=10)
        assert log.has("SHARD_FAILED")
        return
    if outcome == "identify":
        assert discord.wait_for(lambda: len(discord.identifies) == 2, 15)
        flood(discord, 5)
    session = discord.session_history[-1]
    if outcome == "resume":
        assert discord.wait_for(lambda: discord.resumes, 15)
    assert eventually(lambda: log.sequences() and log.sequences()[-1] == session.sequence, 15)
    if outcome == "resume":
        assert len(discord.identifies) == 1
        assert log.sequences() == [logged.sequence for logged in session.events]  # nothing lost, twice or out of order
    if outcome == "goes on":
        assert discord.connections == 1
        assert log.sequences() == [logged.sequence for logged in session.events]


@matrix
@pytest.mark.parametrize("fault", FAULTS)
def test_faults(discord, quick, log, fault):
    gateway = quick()
    watch(gateway, log)
    act, outcome = FAULTS[fault]
    flood(discord, 50)
    act(discord)
    flood(discord, 50)
    check(discord, gateway, log, outcome)


@matrix
@pytest.mark.parametrize("code", CODES)
def test_close_codes(discord, quick, log, code):
    gateway = quick()
    watch(gateway, log)
    flood(discord, 50)
    discord.close_connection(0, code=code)
    flood(discord, 50)
    check(discord, gateway, log, CODES[code])


@matrix
def test_rate_limited_comes_back_later(discord, quick, log):
    gateway = quick()
    watch(gateway, log)
    discord.close_connection(0, code=4008)
    flood(discord, 5)
    assert not discord.wait_for(lambda: discord.resumes, 2)
    check(discord, gateway, log, "resume")


@matrix
@pytest.mark.parametrize("state", ["before Hello", "while identifying", "in replay", "in mid-burst"])
@pytest.mark.parametrize("what", ["op 7", "op 9"])
def test_op_7_and_op_9_in_every_state(discord, quick, log, state, what):
    gateway = quick()
    gateway.on()(log)
    payload = b'{"op":7,"d":null}' if what == "op 7" else b'{"op":9,"d":false}'
    if state == "before Hello":
        discord.before_hello(payload)
    elif state == "while identifying":
        discord.delay_ready(None)
    gateway.start()
    if state == "while identifying":
        assert discord.wait_for(lambda: discord.identifies)
        discord.delay_ready(0.0)
        discord.send(0, payload)
        outcome = "identify"
    else:
        assert log.has("GUILD_CREATE", 2, timeout=15)
        outcome = "resume" if what == "op 7" else "identify"
    if state == "in replay":
        if what == "op 7":
            discord.reconnect_in_replay(after=10)
        else:
            discord.answer_resume(resumable=False)
        discord.drop(0)
        flood(discord, 50)
    elif state == "in mid-burst":
        flood(discord, 2000)
        discord.reconnect(0) if what == "op 7" else discord.invalidate(0)
        flood(discord, 2000)
    elif state == "before Hello":
        flood(discord, 10)
        assert eventually(lambda: log.sequences() == list(range(1, discord.sent + 1)))
        assert len(discord.identifies) == 1
        return
    check(discord, gateway, log, outcome)


@matrix
@pytest.mark.parametrize("status", [401, 403, 429, 502])
def test_an_upgrade_that_is_refused_is_tried_again(discord, quick, log, status):
    gateway = quick()
    discord.refuse_upgrade(status)
    watch(gateway, log)
    assert len(discord.identifies) == 1
    discord.refuse_upgrade(status)
    discord.drop(0)
    flood(discord, 10)
    check(discord, gateway, log, "resume")


@matrix
@pytest.mark.parametrize("address", ["ws://127.0.0.1:9", "ws://no-such-host.invalid"])
def test_a_dead_resume_url_costs_no_session(discord, quick, log, address):
    gateway = quick()
    watch(gateway, log)
    gateway.shards[0].session.resume_url = address
    discord.drop(0)
    flood(discord, 10)
    check(discord, gateway, log, "resume")


@pytest.mark.discord(tls=True)
def test_a_certificate_that_is_not_trusted_is_no_connection(discord, quick, log):
    gateway = quick(url=discord.url, shard_count=1, ssl_context=None)
    gateway.on()(log)
    gateway.start()
    assert log.has("SHARD_DISCONNECTED")
    assert "certificate" in log.events[0].data["reason"].lower()
    assert not discord.identifies


@pytest.mark.discord(tls=True)
def test_a_certificate_for_another_name_is_no_connection(discord, quick, log):
    gateway = quick(url=discord.url.replace("127.0.0.1", "127.0.0.2"), shard_count=1)
    gateway.on()(log)
    gateway.start()
    assert log.has("SHARD_DISCONNECTED")
    assert not discord.identifies


@matrix
def test_a_resume_url_that_is_not_encrypted_is_not_followed(discord, quick, log):
    gateway = quick()
    watch(gateway, log)
    with socket.create_server(("127.0.0.1", 0)) as trap:
        gateway._endpoint.url, real = "wss://gateway.test", gateway._endpoint.url
        assert not gateway.may_resume_at(f"ws://127.0.0.1:{trap.getsockname()[1]}")
        assert gateway.may_resume_at("wss://anything.test")
        gateway._endpoint.url = real
        assert gateway.may_resume_at("ws://127.0.0.1:1")
        assert not gateway.may_resume_at("ws://198.51.100.1")
        assert not gateway.may_resume_at("nonsense")


@matrix
def test_a_bug_of_ours_ends_no_shard(discord, quick, log, monkeypatch):
    from crux_sync import shard as module

    monkeypatch.setattr(module, "AFTER_ERROR", 0.05)
    gateway = quick()
    watch(gateway, log)
    broken = threading.Event()
    offer = gateway._hub.offer

    def fail_once(events, routes):
        if not broken.is_set() and any(event.type == "TYPING_START" for event in events):
            broken.set()
            raise RuntimeError("a bug")
        return offer(events, routes)

    gateway._hub.offer = fail_once
    flood(discord, 50)
    check(discord, gateway, log, "resume")
    assert broken.is_set()


@matrix
@pytest.mark.parametrize(
    "payload",
    [
        b'{"op":"0","d":null}',
        b'{"op":0,"t":5,"s":1,"d":{}}',
        b'{"op":0,"t":"X","s":"1","d":{}}',
        b'{"op":0,"t":"X","s":-1,"d":{}}',
        b'{"op":0,"t":"X","s":99999999999999999999999,"d":{}}',
        b'{"op":0,"t":"\xff\xfe","s":1,"d":{}}',
        b'{"op":7,"d":"\xff\xfe"}',
        b'{"op":9,"d":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"op":0,"t":"X","s":1,"d":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[]",
        b"5",
        b"",
    ],
)
def test_envelopes_of_the_wrong_shape_cost_a_connection_and_no_event(discord, quick, log, payload):
    gateway = quick()
    watch(gateway, log)
    flood(discord, 20)
    discord.send(0, payload)
    flood(discord, 20)
    check(discord, gateway, log, "resume")


@matrix
def test_a_bomb_ends_the_connection_not_the_process(discord, quick, log, monkeypatch):
    monkeypatch.setattr("crux_sync.connection.Connection.__init__.__defaults__", ("zlib-stream", 1_000_000, None))
    gateway = quick()
    watch(gateway, log)
    discord.large_message(0, 5_000_000)
    assert discord.wait_for(lambda: discord.connections >= 2)
    assert log.has("SHARD_DISCONNECTED")
    index = log.types.index("SHARD_DISCONNECTED")
    assert "inflates to more than 1000000" in log.events[index].data["reason"]


@pytest.mark.discord(tls=True)
def test_the_servers_code_is_kept_when_a_reset_follows_it(discord, quick, log):
    gateway = quick()
    gateway.on("SHARD_DISCONNECTED")(log)
    gateway.start()
    assert discord.wait_ready()
    assert eventually(lambda: gateway.shards[0].state == "ready")
    for count in range(1, 11):
        discord.send(0, b'{"op":1,"d":null}')  # so that we write while it closes
        discord.close_connection(0, code=4000 + 900 + count)
        assert log.has("SHARD_DISCONNECTED", count)
        assert log.events[-1].data["code"] == 4900 + count
        assert eventually(lambda: gateway.shards[0].state == "ready", 15)
