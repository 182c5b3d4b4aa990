"""Session stores, and restarts that lose nothing."""

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading

import pytest
from conftest import eventually

from crux_sync import ConfigurationError, Gateway, GatewayClosed
from crux_sync.keeper import handled_session
from crux_sync.limits import LocalIdentifyLimiter
from crux_sync.sessions import FileSessionStore, Identity, MemorySessionStore, StoredSession

IDENTITY = Identity.of("made-up", 2, 5)
ONE = StoredSession("abc", "wss://resume.test", 7, "5", "6")
TWO = StoredSession("def", None, 9)


def flood(discord, count, start=0):
    for number in range(start, start + count):
        discord.dispatch("MESSAGE_CREATE", {"guild_id": "1", "n": number})


# ------------------------------------------------------------------ stores


@pytest.mark.parametrize("make", [lambda path: MemorySessionStore(), lambda path: FileSessionStore(path / "s.json")])
def test_stores(tmp_path, make):
    store = make(tmp_path)
    assert store.open(IDENTITY) == {}
    store.save({0: ONE})
    store.save({1: TWO})
    store.close()
    assert store.open(IDENTITY) == {0: ONE, 1: TWO}
    store.save({0: None})
    store.close()
    assert store.open(IDENTITY) == {1: TWO}
    store.close()
    for other in (Identity.of("another", 2, 5), Identity.of("made-up", 3, 5), Identity.of("made-up", 2, 4)):
        assert store.open(other) == {}
        store.close()


def test_the_file_is_private_readable_and_holds_no_token(tmp_path):
    path = tmp_path / "sessions.json"
    store = FileSessionStore(path)
    store.open(Identity.of("a-made-up-token", 1, 1))
    store.save({0: ONE})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["sessions"]["0"]["sequence"] == 7
    assert "a-made-up-token" not in path.read_text()
    assert os.listdir(tmp_path) == ["sessions.json"]
    store.close()


def test_a_second_gateway_is_refused_also_after_saves(tmp_path):
    first, second = FileSessionStore(tmp_path / "s"), FileSessionStore(tmp_path / "s")
    first.open(IDENTITY)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="in use"):
            second.open(IDENTITY)
        first.save({0: ONE})
    first.close()
    assert second.open(IDENTITY) == {0: ONE}
    second.close()


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "\x00", '{"version": 1}', '{"version":1,"token_digest":"","shard_count":1,"intents":1,"sessions":5}'],
)
def test_a_damaged_file_is_a_fresh_start_with_a_warning(tmp_path, caplog, text):
    path = tmp_path / "s"
    path.write_text(text)
    store = FileSessionStore(path)
    assert store.open(IDENTITY) == {}
    assert "damaged" in caplog.text
    store.save({0: ONE})
    store.close()
    assert store.open(IDENTITY) == {0: ONE}
    store.close()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    store = FileSessionStore(tmp_path / "s")
    store.open(IDENTITY)
    store.save({0: ONE})

    def no_space(descriptor):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        store.save({0: TWO})
    assert os.listdir(tmp_path) == ["s"]
    assert "abc" in (tmp_path / "s").read_text()
    store.close()


@pytest.mark.parametrize("store", ["/no/such/directory/file", "/", 5, MemorySessionStore])
def test_bad_stores(store):
    with pytest.raises(ConfigurationError, match="session_store"):
        Gateway("made-up", session_store=store)


# ------------------------------------------------------------------ restarts


def test_a_restart_resumes_and_brings_what_was_missed(discord, connect, log, tmp_path):
    path = tmp_path / "sessions.json"
    first = connect(session_store=path)
    first.on()(log)
    first.start()
    assert log.has("GUILD_CREATE", 2)
    flood(discord, 10)
    assert log.has("MESSAGE_CREATE", 10)
    first.close()
    assert discord.sessions[0].peer is None  # kept alive
    flood(discord, 10, 10)
    second = connect(session_store=path)
    second.on()(log)
    second.start()
    assert log.has("MESSAGE_CREATE", 20)
    assert log.has("RESUMED")
    assert log.sequences() == list(range(1, discord.sent + 1))
    assert second.shards[0].session.user_id == discord.world.user_id
    assert (len(discord.identifies), len(discord.resumes)) == (1, 1)


@pytest.mark.discord(identify_period=0.0)  # two programs, as far as identifies go
def test_a_store_from_other_intents_is_not_used(discord, connect, tmp_path, caplog):
    for intents in (1, 513):
        gateway = connect(session_store=tmp_path / "s", intents=intents)
        gateway.start()
        assert eventually(lambda gateway=gateway: gateway.shards[0].state == "ready", 15)
        gateway.close()
    assert len(discord.identifies) == 2
    assert "another token, shard count or intents" in caplog.text


def test_what_a_slow_callback_has_not_handled_comes_again(discord, connect, tmp_path):
    path = tmp_path / "sessions.json"
    handled, gate = [], threading.Semaphore(3)
    first = connect(session_store=path)

    @first.on("MESSAGE_CREATE")
    def slow(event):
        gate.acquire(timeout=10)
        handled.append(event.data["n"])

    first.start()
    assert discord.wait_ready()
    flood(discord, 100)
    assert eventually(lambda: len(handled) == 3 and first.shards[0].dealt == discord.sent)
    threading.Timer(0.2, gate.release).start()  # the fourth is in the worker's hands when we close
    first.close()
    assert handled == [0, 1, 2, 3]
    second = connect(session_store=path)
    again = second.subscribe("MESSAGE_CREATE")
    second.start()
    got = [again.get(10).data["n"] for _ in range(96)]
    assert got == list(range(4, 100))


def test_what_counts_as_handled(discord, connect, tmp_path):
    gateway = connect(session_store=tmp_path / "s")
    iterated = gateway.subscribe("MESSAGE_CREATE")
    pool = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    assert discord.wait_ready()
    flood(discord, 10)
    shard = gateway.shards[0]
    assert eventually(lambda: pool.waiting == 10)
    first = discord.sent - 9

    def handled():
        return handled_session(shard, [iterated, pool]).sequence - first + 1

    for _ in range(10):
        pool.queue.get()
        pool.queue.task_done()
    assert handled() == 0
    iterated.get()
    assert handled() == 0  # in the consumer's hands
    iterated.get()
    assert handled() == 1  # the next one was asked for
    assert len(iterated.get_many(5)) == 5
    assert handled() == 2
    iterated.close()
    assert handled_session(shard, [pool]).sequence == discord.sent


@pytest.mark.discord(identify_period=0.0)
def test_a_new_session_is_never_stored_with_the_old_ones_sequence(discord, connect, tmp_path, log):
    saved = []

    class Store(MemorySessionStore):
        def save(self, sessions):
            saved.append(sessions[0])
            super().save(sessions)

    gateway = connect(session_store=Store(), identify_limiter=LocalIdentifyLimiter(1, period=0.0))
    gateway.on("SHARD_READY")(log)
    gateway.start()
    assert log.has("SHARD_READY")
    flood(discord, 200)
    assert eventually(lambda: saved and saved[-1].sequence == discord.sent)
    discord.invalidate(0)
    assert log.has("SHARD_READY", 2, timeout=15)
    assert eventually(lambda: saved[-1] is not None and saved[-1].session_id == discord.sessions[0].session_id)
    assert all(one.sequence < 10 for one in saved if one and one.session_id == discord.sessions[0].session_id)


def test_the_session_is_over_when_told_so(discord, connect, tmp_path):
    path = tmp_path / "sessions.json"
    gateway = connect(session_store=path)
    gateway.start()
    assert eventually(lambda: gateway.shards[0].state == "ready")
    assert eventually(lambda: '"sequence"' in path.read_text())  # a new session is saved at once
    gateway.close(resume=False)
    assert json.loads(path.read_text())["sessions"] == {}
    assert not discord.sessions


def test_heartbeats_carry_the_handled_sequence(discord, connect, tmp_path):
    gateway = connect(session_store=MemorySessionStore())
    held = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    assert discord.wait_ready()
    assert eventually(lambda: gateway.shards[0].state == "ready")
    flood(discord, 5)
    assert eventually(lambda: gateway.shards[0].session.handled == discord.sent - 5)
    discord.request_heartbeat(0)
    assert discord.wait_for(lambda: discord.sessions[0].confirmed == discord.sent - 5)
    assert len(held.get_many(5)) == 5


# ------------------------------------------------------------------ processes that die

CONSUMER = """
    import sys
    from crux_sync import Gateway, Intents
    api_url, store = sys.argv[1:]
    gateway = Gateway("test", api_url=api_url, intents=Intents.all(), session_store=store)
    @gateway.on("MESSAGE_CREATE")
    def handle(event):
        sys.stdout.write(f"{event.data['n']}\\n")
        sys.stdout.flush()
    gateway.run()
"""


def test_a_killed_process_handles_everything_at_least_once(discord, tmp_path):
    script = tmp_path / "consumer.py"
    script.write_text(textwrap.dedent(CONSUMER))
    seen: set[int] = set()

    def read(process):
        for line in process.stdout:
            if line.endswith("\n"):
                seen.add(int(line))

    total = 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, None):
        command = [sys.executable, str(script), discord.api_url, str(tmp_path / "store")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            reader = threading.Thread(target=read, args=(process,))
            reader.start()
            assert discord.wait_ready(timeout=15)
            before = len(seen)
            flood(discord, 3000, total)
            total += 3000
            if number is None:
                assert eventually(lambda: len(seen) == 12_000, 20), len(seen)
                process.terminate()
            else:
                assert eventually(lambda before=before: len(seen) > before + 100)
                process.send_signal(number)
            reader.join(10)
    assert seen == set(range(total))
    assert len(discord.identifies) == 1
    assert len(discord.resumes) == 3


def test_iterating_after_close_of_a_kept_session(discord, connect, tmp_path):
    gateway = connect(session_store=tmp_path / "s")
    subscription = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    assert discord.wait_ready()
    gateway.close()
    with pytest.raises(GatewayClosed):
        subscription.get(1)
