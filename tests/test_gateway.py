"""The whole path against a real loopback server."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import pytest
from conftest import eventually, our_threads

from crux_sync import AuthenticationFailed, DisallowedIntents, GatewayClosed, Intents


def message(content: str, guild_id: int = 41771983423143937) -> dict:
    return {"id": "1", "guild_id": str(guild_id), "channel_id": "2", "content": content, "author": {"id": "3"}}


@pytest.mark.parametrize("compress", ["zlib-stream", "zstd-stream", None])
@pytest.mark.parametrize(
    "tls", [pytest.param(False, id="ws"), pytest.param(True, marks=pytest.mark.discord(tls=True), id="wss")]
)
def test_events_reach_a_callback(discord, connect, log, compress, tls):
    gateway = connect(compress=compress)
    gateway.on()(log)
    shards = gateway.start()
    assert [shard.id for shard in shards] == [0]
    assert log.has("SHARD_READY")
    assert gateway.shards[0].state == "ready"
    discord.dispatch("MESSAGE_CREATE", message("hello"))
    assert log.has("MESSAGE_CREATE")
    event = log.events[log.types.index("MESSAGE_CREATE")]
    assert event.data["content"] == "hello"
    assert event.raw.startswith(b'{"id":"1"')
    assert event.sequence == discord.sessions[0].sequence
    type, data, shard_id = event
    assert (type, data["content"], shard_id) == ("MESSAGE_CREATE", "hello", 0)
    assert log.types[:3] == ["SHARD_CONNECTED", "READY", "SHARD_READY"]


@pytest.mark.discord(shards=4)
def test_iteration_and_leaving_it(discord, connect):
    gateway = connect()
    seen = []
    with gateway:
        for event in gateway:
            seen.append(event.type)
            if seen.count("GUILD_CREATE") == 8:
                break
    assert seen.count("READY") == 4
    with pytest.raises(GatewayClosed):
        iter(gateway)


def test_close_ends_iterators_and_blocked_gets(discord, connect):
    gateway = connect()
    subscription = gateway.subscribe("MESSAGE_CREATE")
    ended, taken = [], []
    gateway.start()
    threads = [
        threading.Thread(target=lambda: ended.append(list(gateway))),
        threading.Thread(target=lambda: taken.append(subscription.queue.get())),
    ]
    for thread in threads:
        thread.start()
    assert discord.wait_ready()
    gateway.close()
    for thread in threads:
        thread.join(5)
    assert len(ended) == 1
    assert repr(taken) == "[<crux_sync.CLOSED>]"
    with pytest.raises(GatewayClosed):
        subscription.get(1)


# ------------------------------------------------------------------ sessions


@pytest.mark.parametrize("fault", ["reconnect", "drop", "close", "end", "invalid", "ack"])
@pytest.mark.discord(heartbeat_interval=0.4, heartbeat_tolerance=10)
def test_the_session_is_resumed(discord, connect, log, fault):
    gateway = connect()
    gateway.on()(log)
    gateway.start()
    assert log.has("GUILD_CREATE", 2)
    {
        "reconnect": lambda: discord.reconnect(0),
        "drop": lambda: discord.drop(0),
        "close": lambda: discord.close_connection(0, code=4000),
        "end": lambda: discord.end_connection(0),
        "invalid": lambda: discord.invalidate(0, resumable=True),
        "ack": lambda: discord.stop_acks(0),
    }[fault]()
    for number in range(50):
        discord.dispatch("MESSAGE_CREATE", message(str(number)))
    assert log.has("RESUMED")
    assert log.has("MESSAGE_CREATE", 50)
    assert eventually(lambda: len(log.sequences()) == discord.sent)
    assert log.sequences() == list(range(1, discord.sent + 1))
    assert len(discord.identifies) == 1
    assert "SHARD_RESUMED" in log.types


@pytest.mark.discord(identify_period=0)
def test_an_invalid_session_is_replaced(discord, connect, log):
    gateway = connect(identify_limiter=None)
    gateway.on()(log)
    gateway.start()
    assert log.has("SHARD_READY")
    first = gateway.shards[0].session_id
    discord.invalidate(0)
    assert log.has("SHARD_READY", 2, timeout=15)
    assert gateway.shards[0].session_id != first
    assert not discord.resumes


@pytest.mark.discord(heartbeat_interval=0.2)
def test_heartbeats_are_sent_answered_and_measured(discord, connect):
    gateway = connect()
    gateway.start()
    assert discord.wait_for(lambda: any(peer.beats >= 3 for peer in discord.peers))
    assert 0 <= gateway.shards[0].latency < 1
    beats = discord.peers[0].beats
    discord.request_heartbeat(0)
    assert discord.wait_for(lambda: discord.peers[0].beats > beats)
    assert " ms" in repr(gateway.shards[0])


@pytest.mark.discord(shards=16, max_concurrency=16)
def test_shards_of_different_buckets_start_together(discord, connect):
    connect().start()
    assert discord.wait_ready(16)
    times = [when for when, _, _ in discord.identifies]
    assert max(times) - min(times) < 2


@pytest.mark.discord(shards=2, max_concurrency=1)
def test_one_bucket_identifies_in_order_five_seconds_apart(discord, connect):
    connect().start()
    assert discord.wait_ready(2, timeout=15)
    (first, shard, _), (second, _, _) = discord.identifies
    assert shard == 0
    assert 5.0 <= second - first < 5.5


@pytest.mark.discord(shards=4)
def test_some_shards_only(discord, connect):
    gateway = connect(shards=[range(1, 3), 3, 3])
    assert [shard.id for shard in gateway.start()] == [1, 2, 3]
    assert discord.wait_ready(3)
    assert gateway.shard_for(613425648685547541) == (613425648685547541 >> 22) % 4
    gateway.stop_shard(2)
    assert gateway.shards[2].state == "stopped"
    assert discord.wait_for(lambda: len(discord.sessions) == 2)
    gateway.start_shard(2)
    gateway.start_shard(0)
    assert discord.wait_ready(4)
    assert list(gateway.shards) == [0, 1, 2, 3]


def test_with_url_and_shard_count_no_http_request_is_made(discord, connect, log):
    gateway = connect(url=discord.url, shard_count=1)
    gateway.on()(log)
    gateway.start()
    assert log.has("SHARD_READY")
    assert discord.requests == []


def test_the_url_may_be_a_callable_and_overrides_count(discord, connect, log):
    gateway = connect("other", intents=0)
    gateway.on("SHARD_READY")(log)
    gateway.start(token="test", url=lambda: discord.url, shard_count=1, intents=Intents.all())
    assert log.has("SHARD_READY")
    assert discord.sessions[0].intents == Intents.all()


def test_presence_is_asked_for_at_every_identify(discord, connect):
    asked = []

    def presence(shard_id):
        asked.append(shard_id)
        return {"status": "idle", "activities": [{"name": "chess"}]}

    connect(presence=presence).start()
    assert discord.wait_ready()
    assert asked == [0]


def test_stats_are_a_snapshot(discord, connect, log):
    gateway = connect()
    gateway.on()(log)
    gateway.start()
    assert log.has("GUILD_CREATE", 2)
    stats = gateway.stats()
    assert stats.shards[0].state == "ready"
    assert stats.shards[0].events >= 3
    assert stats.shards[0].inflated_bytes > stats.shards[0].received_bytes > 0
    assert (stats.subscriptions[0].label, stats.subscriptions[0].delivered) == ("the callback queue", 5)
    with pytest.raises(AttributeError):
        stats.discarded = 1


# ------------------------------------------------------------------ closing


def test_close_from_a_callback(discord, connect):
    gateway = connect()
    gateway.on("READY")(lambda event: gateway.close())
    gateway.start()
    gateway.join(timeout=10)
    assert eventually(lambda: not [name for name in our_threads() if "sim" not in name])
    assert not discord.sessions  # told 1000: the session is gone


@pytest.mark.discord(heartbeat_interval=0.2, heartbeat_tolerance=100)
def test_close_within_its_deadline_against_a_mute_server(discord, connect, log):
    gateway = connect()
    gateway.on()(log)
    gateway.start()
    assert log.has("SHARD_READY")
    discord.half_open(0)
    started = time.monotonic()
    gateway.close(timeout=4)
    assert time.monotonic() - started < 4.5


def test_close_while_connecting(discord, connect):
    discord.delay_hello(None)
    gateway = connect()
    gateway.start()
    assert discord.wait_for(lambda: discord.connections)
    started = time.monotonic()
    gateway.close()
    assert time.monotonic() - started < 3


def test_close_drains_the_queue(discord, connect, log):
    gateway = connect()
    slow = threading.Event()

    @gateway.on("MESSAGE_CREATE")
    def handle(event):
        slow.wait(0.01)
        log(event)

    gateway.start()
    assert discord.wait_ready()
    for number in range(50):
        discord.dispatch("MESSAGE_CREATE", message(str(number)))
    assert log.has("MESSAGE_CREATE")
    assert eventually(lambda: gateway.shards[0].sequence == discord.sent)
    gateway.close()
    assert log.types.count("MESSAGE_CREATE") == 50


def test_a_second_start_and_use_after_close(discord, connect):
    gateway = connect()
    gateway.start()
    with pytest.raises(GatewayClosed, match="started once"):
        gateway.start()
    gateway.close()
    gateway.close()
    for use in (gateway.start, lambda: gateway.subscribe("READY"), lambda: gateway.wait_for("READY", timeout=1)):
        with pytest.raises(GatewayClosed):
            use()


# ------------------------------------------------------------------ fatal


def test_a_wrong_token_is_raised_after_one_attempt(discord, connect):
    with pytest.raises(AuthenticationFailed) as raised:
        connect("wrong").run()
    assert (raised.value.code, raised.value.shard_id) == (None, None)
    assert len(discord.requests) == 1


@pytest.mark.discord(allow_violations=True)
def test_a_token_that_the_gateway_refuses(discord, connect):
    gateway = connect("wrong", url=discord.url, shard_count=1)
    with pytest.raises(AuthenticationFailed, match="4004") as raised:
        gateway.run()
    assert (raised.value.code, raised.value.shard_id) == (4004, 0)
    assert discord.connections == 1
    assert discord.violations == ["authentication_failed"]


@pytest.mark.discord(granted_intents=0, allow_violations=True)
def test_disallowed_intents_are_named_everywhere(discord, connect):
    gateway = connect()
    gateway.start()
    with pytest.raises(DisallowedIntents, match="GUILD_MEMBERS, GUILD_PRESENCES, MESSAGE_CONTENT"):
        gateway.join(timeout=10)
    with pytest.raises(DisallowedIntents):
        next(iter(gateway))
    with pytest.raises(DisallowedIntents):
        gateway.wait_for("READY", timeout=5)
    assert gateway.shards[0].state == "failed"


# ------------------------------------------------------------------ processes

SCRIPT = """
    import signal, sys, threading, warnings
    from crux_sync import Gateway, Intents
    gateway = Gateway("test", api_url=sys.argv[1], intents=Intents.all())
    @gateway.on("SHARD_READY")
    def ready(event):
        print("ready", flush=True)
"""


def script(tmp_path, discord, body: str) -> subprocess.Popen:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT) + textwrap.dedent(body))
    return subprocess.Popen(
        [sys.executable, str(path), discord.api_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_run_within_two_seconds(discord, tmp_path, number):
    body = """
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        gateway.run()
        assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
        assert threading.active_count() == 1, threading.enumerate()
        print("done")
    """
    with script(tmp_path, discord, body) as process:
        assert process.stdout.readline() == b"ready\n"
        started = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, b"done\n", b"")
    assert time.monotonic() - started < 2
    assert not discord.sessions


def test_a_script_that_never_closes_still_exits(discord, tmp_path):
    with script(tmp_path, discord, "gateway.start(); gateway.wait_for('GUILD_CREATE', timeout=10)") as process:
        out, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (0, b"")
    assert b"ready\n".startswith(out)


def test_run_on_another_thread_leaves_signals_alone(discord, connect):
    gateway = connect()
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=gateway.run)
    thread.start()
    assert discord.wait_ready()
    assert signal.getsignal(signal.SIGINT) is before
    gateway.close()
    thread.join(5)
    assert not thread.is_alive()


def test_a_forked_process_is_told(discord, connect):
    gateway = connect()
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of just what is tested here
        child = os.fork()
    if child == 0:
        try:
            gateway.start()
        except Exception as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert b"after fork" in pipe.read()


def test_the_client_leaves_asyncio_alone():
    code = "import sys, crux_sync; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
