"""What is recorded comes again: the file, the simulator's replay, the two commands."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from conftest import eventually

from crux_sync import Event, Gateway, Intents
from crux_sync.recording import Recorder, Recording, RecordingError, event_line
from crux_sync.simulator import Simulator

COMMAND = [sys.executable, "-m", "crux_sync"]


def gateway_to(discord, **options) -> Gateway:
    return Gateway("test", api_url=discord.api_url, **{"intents": Intents.all()} | options)


def message(number: int, guild: int = 1 << 22, shard: int = 0) -> Event:
    data = {"id": str(number), "guild_id": str(guild), "content": f"number {number}"}
    return Event.create("MESSAGE_CREATE", data, shard, number)


def write(path, *events: Event, shard_count: int = 1, gap: float = 0.0) -> None:
    """A recording in which ``gap`` seconds lie between two events."""
    with gzip.open(path, "wb") as file:
        file.write(json.dumps({"recording": 1, "shard_count": shard_count, "intents": 0}).encode() + b"\n")
        for number, event in enumerate(events):
            file.write(event_line(event, 1000.0 + number * gap) + b"\n")


# -------------------------------------------------------------------- the file


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "r.gz"
    before = time.time()
    with Recorder(path) as recorder:
        recorder.begin(4, 513)
        recorder.add(message(1, shard=3))
        recorder.add(Event.create("READY", {"user": {"id": "7"}, "guilds": []}, 2, 1))
    recording = Recording(path)
    first, second = recording
    assert (recording.shard_count, recording.intents, list(recording.ready)) == (4, 513, [2])
    assert (first.shard_id, first.type, first.data["content"]) == (3, "MESSAGE_CREATE", "number 1")
    assert before <= first.time <= second.time <= time.time()
    assert [one.type for one in recording] == ["MESSAGE_CREATE", "READY"]  # a second time


def test_only_its_owner_may_read_a_recording(tmp_path):
    with Recorder(tmp_path / "r.gz"):
        assert os.stat(tmp_path / "r.gz").st_mode & 0o077 == 0


def test_a_crash_costs_only_what_was_not_flushed(tmp_path):
    path = tmp_path / "r.gz"
    with Recorder(path) as recorder:
        recorder.begin(1, 0)
        for number in range(100):
            recorder.add(message(number))
        recorder.flush()
        torn = tmp_path / "torn.gz"
        torn.write_bytes(path.read_bytes())  # what a killed process leaves: no end, perhaps half a block
    whole = path.read_bytes()
    assert len(list(Recording(torn))) == 100
    lengths = []
    for length in range(200, len(whole), 61):
        torn.write_bytes(whole[:length])
        with contextlib.suppress(RecordingError):  # not even the head is there
            lengths.append(len(list(Recording(torn))))
    assert lengths == sorted(lengths)
    assert 90 < lengths[-1] <= 100


def test_lines_of_listen_are_a_recording_too(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(event_line(message(1, shard=1)) + b"\n" + event_line(message(2)) + b"\n")
    recording = Recording(path)
    assert recording.shard_count == 2
    assert [(one.time, one.shard_id) for one in recording] == [(None, 1), (None, 0)]


@pytest.mark.parametrize(
    "content", [b"no json\nno json\n", b'{"op":1}\n', b'{"recording":2}\n', b"\x1f\x8b nothing", b"[]\n", b""]
)
def test_what_is_no_recording_is_refused(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"x(, line 1)?: "):
        Recording(path)


def test_an_event_with_line_breaks_in_its_json_is_one_line():
    event = Event(0, "X", 1, b"null")
    event.payload = type(event.payload)(b'{\n  "a": "b\\nc"\n}')
    assert event_line(event) == b'{"shard":0,"t":"X","s":1,"d":{"a":"b\\nc"}}'


# -------------------------------------------------------------------- the simulator


def record(path, *, shards: int, events: int) -> list[tuple[int, str, bytes]]:
    """Record a live gateway; what it received, in order."""
    seen = []
    with Simulator(shards=shards, seed=9) as discord, Recorder(path) as recorder:
        gateway = gateway_to(discord)
        subscription = gateway.subscribe()
        with gateway:
            recorder.begin(gateway.shard_count, int(Intents.all()))
            discord.traffic(1000)
            while len(seen) < events:
                event = subscription.get(timeout=10)
                if event.sequence is not None:
                    recorder.add(event)
                    seen.append((event.shard_id, event.type, event.raw))
    return seen


def test_a_replay_brings_what_was_recorded_to_the_same_shards_in_order(tmp_path):
    seen = record(tmp_path / "r.gz", shards=3, events=300)
    account = json.loads(next(raw for _, name, raw in seen if name == "READY"))["user"]
    got, ready = [], []
    with Simulator(seed=1) as discord:
        replay = discord.replay(tmp_path / "r.gz", speed=0)
        gateway = gateway_to(discord)

        @gateway.on()
        def keep(event):
            if event.type == "READY":
                ready.append(event.data)
            elif event.sequence is not None:
                got.append((event.shard_id, event.type, event.raw))

        expected = [one for one in seen if one[1] != "READY"]
        with gateway:
            assert replay.wait(10)
            assert eventually(lambda: len(got) >= len(expected))
            assert gateway.shard_count == 3
        assert replay.sent == len(expected)
        assert discord.violations == []
    for shard_id in range(3):
        assert [one for one in got if one[0] == shard_id] == [one for one in expected if one[0] == shard_id]
    assert [data["user"] for data in ready] == [account] * 3
    recorded = {guild["id"] for _, name, raw in seen if name == "READY" for guild in json.loads(raw)["guilds"]}
    assert {guild["id"] for data in ready for guild in data["guilds"]} == recorded


def test_another_shard_count_gets_events_by_guild(tmp_path):
    write(tmp_path / "r.gz", *[message(number, guild=number << 22, shard=0) for number in range(1, 9)])
    with Simulator(shards=2) as discord:
        discord.wait_ready(0)
        with gateway_to(discord, shard_count=2) as gateway:
            events = gateway.subscribe("MESSAGE_CREATE")
            assert discord.wait_ready(2)
            assert discord.replay(tmp_path / "r.gz", speed=0, shards=2).wait(10)
            got = {event.data["id"]: event.shard_id for event in (events.get(timeout=5) for _ in range(8))}
    assert got == {str(number): number % 2 for number in range(1, 9)}


def test_the_speed_is_that_of_the_recording_or_a_multiple(tmp_path):
    write(tmp_path / "r.gz", *[message(number) for number in range(1, 6)], gap=1.0)
    with Simulator() as discord, gateway_to(discord) as gateway:
        events = gateway.subscribe("MESSAGE_CREATE")
        arrived = []
        discord.replay(tmp_path / "r.gz", speed=5.0)
        for _ in range(5):
            events.get(timeout=10)
            arrived.append(time.monotonic())
    gaps = [later - earlier for earlier, later in pairwise(arrived)]
    assert 0.7 < arrived[-1] - arrived[0] < 2.0, gaps  # 4 s, five times as fast


def test_a_replay_waits_for_its_clients_and_can_be_stopped(tmp_path):
    write(tmp_path / "r.gz", message(1))
    with Simulator() as discord:
        replay = discord.replay(tmp_path / "r.gz", speed=0)
        assert not replay.wait(0.3)
        assert (replay.sent, replay.done) == (0, False)
        assert replay.stop() == 0
        assert replay.done
        assert not replay.wait(0)


def test_a_replay_that_cannot_be_read_on_says_so(tmp_path):
    path = tmp_path / "r.jsonl"
    ready = Event.create("READY", {"user": {"id": "7"}, "guilds": []}, 0, 1)
    head = b'{"recording":1,"shard_count":1,"intents":0}\n'
    path.write_bytes(head + event_line(ready) + b"\n" + event_line(message(1)) + b"\nno event\n")
    with Simulator() as discord:
        replay = discord.replay(path, speed=0)
        with gateway_to(discord), pytest.raises(RecordingError, match="line 4"):
            replay.wait(10)


def test_a_negative_speed_is_refused(discord, tmp_path):
    write(tmp_path / "r.gz")
    with pytest.raises(ValueError, match="speed"):
        discord.replay(tmp_path / "r.gz", speed=-1)


def test_a_slow_client_holds_back_a_replay_without_pauses(tmp_path):
    count, filling = 15_000, "x" * 2000  # more than sockets hold
    messages = [Event.create("MESSAGE_CREATE", {"id": str(one), "content": filling}) for one in range(count)]
    write(tmp_path / "r.gz", *messages)
    with Simulator() as discord, gateway_to(discord, compress=None) as gateway:
        events = gateway.subscribe("MESSAGE_CREATE", maxsize=10)
        replay = discord.replay(tmp_path / "r.gz", speed=0)
        assert eventually(lambda: replay.sent > 0 and gateway.shards[0].stats().blocked)
        held = []
        # It stops growing while nobody reads.
        assert eventually(lambda: held.append(replay.sent) or (len(held) > 200 and len(set(held[-100:])) == 1))
        assert held[-1] < count
        for number in range(count):
            assert events.get(timeout=10).data["id"] == str(number)
        assert replay.wait(5)


# -------------------------------------------------------------------- the commands


def test_record_and_replay_as_commands(discord, tmp_path):
    path = tmp_path / "r.gz"
    discord.traffic(300)
    arguments = ["listen", "--api-url", discord.api_url, "--intents", "all", "--count", "60", "--record", str(path)]
    live = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=True)
    arguments = [*COMMAND, "replay", str(path), "--speed", "max"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as replay:
        url = replay.stdout.readline().strip()
        done = subprocess.run(
            [*COMMAND, "listen", "--api-url", url, "--intents", "all", "--count", "60"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        _, err = replay.communicate(timeout=20)  # it ends by itself: the client has gone
    assert replay.returncode == 0
    assert "replayed 59 events" in err
    again, before = ([json.loads(line) for line in text.splitlines()] for text in (done.stdout, live.stdout))
    assert [(one["t"], one["d"]) for one in again[1:]] == [(one["t"], one["d"]) for one in before[1:]]
    assert (again[0]["t"], again[0]["d"]["user"]) == ("READY", before[0]["d"]["user"])


def test_replay_hangs_up_after_all_has_arrived(tmp_path):
    write(tmp_path / "r.gz", *[message(number) for number in range(500)])
    arguments = [*COMMAND, "replay", str(tmp_path / "r.gz"), "--speed", "0", "--hang-up"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as replay:
        gateway = Gateway("test", api_url=replay.stdout.readline().strip(), intents=Intents.all())
        events = gateway.subscribe("MESSAGE_CREATE", "SHARD_DISCONNECTED")
        with gateway:
            got = [events.get(timeout=10) for _ in range(501)]
            replay.communicate(timeout=20)
    assert [one.type for one in got].index("SHARD_DISCONNECTED") == 500
    assert got[-1].data["code"] == 1001
    assert replay.returncode == 0


def test_replay_ends_at_sigterm(tmp_path):
    write(tmp_path / "r.gz", message(1))
    arguments = [*COMMAND, "replay", str(tmp_path / "r.gz")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as replay:
        replay.stdout.readline()
        replay.stderr.readline()
        replay.send_signal(signal.SIGTERM)
        _, err = replay.communicate(timeout=10)
    assert (replay.returncode, err) == (0, "replayed 0 events\n")


@pytest.mark.parametrize("name", ["missing.gz", "other.txt"])
def test_a_wrong_file_is_one_line(tmp_path, name):
    (tmp_path / "other.txt").write_text("hello\n")
    done = subprocess.run(
        [*COMMAND, "replay", str(tmp_path / name)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert name in done.stderr
