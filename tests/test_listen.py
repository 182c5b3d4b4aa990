"""``listen``: filters, recordings, columns, and the screens of a terminal."""

import json
import re
import subprocess
import sys

import pytest
from terminal import Terminal

from crux_sync import Event
from crux_sync.cli.filters import Filter, users_of
from crux_sync.cli.lines import printable, summary
from crux_sync.recording import Recording

COMMAND = [sys.executable, "-m", "crux_sync", "listen"]
MIX = {"MESSAGE_CREATE": 0.5, "TYPING_START": 0.3, "PRESENCE_UPDATE": 0.2}


def listen(discord, *arguments: str, **options) -> subprocess.CompletedProcess:
    command = [*COMMAND, "--api-url", discord.api_url, "--intents", "all", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


# -------------------------------------------------------------------- filters


@pytest.mark.parametrize(
    ("name", "data", "users"),
    [
        ("MESSAGE_CREATE", {"author": {"id": "1"}, "mentions": [{"id": "2"}]}, {1}),
        ("TYPING_START", {"user_id": "3", "member": {"user": {"id": "3"}}}, {3}),
        ("INTERACTION_CREATE", {"id": "9", "member": {"user": {"id": "4"}}}, {4}),
        ("PRESENCE_UPDATE", {"user": {"id": "5"}}, {5}),
        ("USER_UPDATE", {"id": "6"}, {6}),
        ("GUILD_CREATE", {"id": "7"}, set()),
        ("MESSAGE_REACTION_ADD", {"user_id": 8, "member": None}, {8}),
        ("PRESENCES_REPLACE", [], set()),
    ],
)
def test_whom_an_event_is_about(name, data, users):
    assert users_of(Event.create(name, data)) == users


def test_a_filter_wants_both_the_guild_and_the_user():
    event = Event.create("MESSAGE_CREATE", {"guild_id": "1", "author": {"id": "2"}})
    assert Filter(frozenset(), frozenset()).passes(event)
    assert Filter(frozenset({1, 5}), frozenset({2})).passes(event)
    assert not Filter(frozenset({1}), frozenset({3})).passes(event)
    assert not Filter(frozenset({3}), frozenset({2})).passes(event)
    assert not Filter(frozenset({1}), frozenset()).passes(Event.create("READY", {}))


@pytest.mark.discord(identify_period=0.0)
def test_guild_user_and_event_filters_on_the_command_line(discord):
    discord.traffic(500, MIX)
    first, second = list(discord.world.guilds.values())
    user = first.user(1)["id"]
    done = listen(discord, "--guild", first.id, "--guild", second.id, "--user", user, "--count", "10")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 10
    assert all(users_of(Event.create(one["t"], one["d"])) == {int(user)} for one in found)
    done = listen(discord, "--guild", second.id, "--events", "typing_start,guild_create", "--count", "5")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["t"] for one in found} == {"GUILD_CREATE", "TYPING_START"}
    assert {one["d"].get("guild_id", one["d"]["id"] if one["t"] == "GUILD_CREATE" else None) for one in found} == {
        second.id
    }


def test_an_id_that_is_none_is_wrong_usage(discord):
    done = listen(discord, "--guild", "chess")
    assert done.returncode == 2
    assert "ids are numbers" in done.stderr


# -------------------------------------------------------------------- recordings


def test_a_recording_holds_what_is_shown_and_every_ready(discord, tmp_path):
    discord.traffic(300, MIX)
    done = listen(discord, "--events", "message_create", "--count", "5", "--record", str(tmp_path / "r.gz"))
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    recording = Recording(tmp_path / "r.gz")
    ready, *others = recording
    assert ready.type == "READY"
    assert [(one.type, one.data) for one in others] == [(one["t"], one["d"]) for one in printed]
    assert recording.shard_count == 1
    assert b"test" not in (one.raw for one in recording)


def test_a_recording_that_cannot_be_written_is_one_line(discord, tmp_path):
    done = listen(discord, "--record", str(tmp_path / "no" / "r.gz"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert discord.connections == 0


# -------------------------------------------------------------------- columns


def test_what_people_write_cannot_drive_the_terminal():
    assert printable("a\x1b[31m\x07\x9bb\r\n") == "a\N{REPLACEMENT CHARACTER}[31m" + "\N{REPLACEMENT CHARACTER}" * 2 + (
        "b" + "\N{REPLACEMENT CHARACTER}" * 2
    )
    assert printable("ä 語 🎉") == "ä 語 🎉"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"author": {"username": "ada"}, "content": "hi\nyou"}, "ada: hi you"),
        ({"user_id": "5"}, "5"),
        ({"user": {"id": "5"}, "status": "idle"}, "5: idle"),
        ({"member": {"user": {"username": "bo"}}, "data": {"name": "play"}}, "bo: /play"),
        ({"user_id": "5", "emoji": {"name": "🎉"}}, "5: 🎉"),
        ({"name": "Guild", "member_count": 3}, "Guild, 3 members"),
        ({"user": {"username": "crux"}, "guilds": [1, 2]}, "crux: 2 guilds"),
        ([1], ""),
        ({"author": None, "member": 3, "user": "x"}, ""),
    ],
)
def test_an_event_in_a_few_words(data, text):
    assert summary(Event.create("X", data)) == text


def test_columns_and_colours_on_a_terminal(discord):
    guild = next(iter(discord.world.guilds.values()))
    data = {
        "guild_id": guild.id,
        "author": {"id": "1", "username": "ada"},
        "content": "hello \x1b[41m there " + "x" * 200,
    }
    with Terminal("listen", "--api-url", discord.api_url, "--intents", "all", "--count", "4") as terminal:
        assert discord.wait_ready()
        discord.dispatch("MESSAGE_CREATE", data)
        assert terminal.end() == 0
        events = [line for line in terminal.text.splitlines() if re.match(r"\d\d:\d\d:\d\d\.\d{3}", line)]
        assert [line.split()[2] for line in events] == ["READY", "GUILD_CREATE", "GUILD_CREATE", "MESSAGE_CREATE"]
        # The columns are aligned, and a long line is cut, not wrapped.
        assert len({line.index(line.split()[2]) for line in events}) == 1
        assert len({line.index(one) for line in events[1:] for one in discord_ids(discord) if one in line}) == 1
        assert events[3].endswith("…")
        assert "ada: hello \N{REPLACEMENT CHARACTER}[41m there" in events[3]
        assert terminal.colour_of("MESSAGE_CREATE") == "green"
        assert b"\x1b[41m" not in terminal.raw


def discord_ids(discord) -> list[str]:
    return [guild.id for guild in discord.world.guilds.values()]


def test_json_on_a_terminal_when_asked(discord):
    arguments = ["--api-url", discord.api_url, "--json", "--events", "READY", "--count", "1"]
    with Terminal("listen", *arguments, columns=2000) as terminal:
        assert terminal.end() == 0
        (line,) = [one for one in terminal.text.splitlines() if one.startswith("{")]
        assert json.loads(line)["t"] == "READY"


def test_pretty_in_a_pipe_has_no_colours_and_is_not_cut(discord):
    done = listen(discord, "--events", "GUILD_CREATE", "--pretty", "--count", "1")
    head, rest = done.stdout.split("\n", 1)
    assert "GUILD_CREATE" in head
    assert json.loads(rest)["name"] == "Guild 0"
    assert "\x1b" not in done.stdout


# -------------------------------------------------------------------- screens


@pytest.mark.discord(shards=3, heartbeat_interval=0.2)
def test_the_table_of_shards(discord):
    discord.traffic(300, MIX)
    with Terminal("listen", "--api-url", discord.api_url, "--intents", "all", "--status", columns=90) as terminal:
        ready = r"(?m)^ +{0}  ready +\d+ ms  [▁▂▃▄▅▆▇█]{{5,}} +[\d.]+ +\d+ +0$"
        assert terminal.until(lambda text: all(re.search(ready.format(one), text) for one in range(3))), terminal.text
        assert re.search(r"(?m)^shard  state +latency +events/s +queue +reconnects$", terminal.text)
        assert terminal.until(lambda text: rate_of(text) > 200), terminal.text
        assert re.search(
            r"3 of 3 shards ready · \d+ events/s · queue \d+ · 0 reconnects · 997 identifies left", terminal.text
        )
        # Looked at between two drawings: a screen may be half drawn at any moment.
        assert terminal.until(lambda text: "  ready" in text and terminal.colour_of("  ready") == "green")
        discord.drop(1)
        assert terminal.until(lambda text: re.search(r"(?m)^ +1  ready .* 1$", text)), terminal.text
        assert "1 reconnects" in terminal.text
        assert "shard 1: disconnected" in terminal.text  # above the table
        assert "MESSAGE_CREATE" not in terminal.text
        terminal.interrupt()
        assert terminal.end() == 0


def rate_of(text: str) -> float:
    found = re.search(r"ready · ([\d,]+) events/s", text)
    return float(found[1].replace(",", "")) if found else 0.0


@pytest.mark.discord(shards=40)
def test_the_table_fits_the_screen_and_what_needs_looking_at_comes_first(discord):
    discord.delay_hello(None)  # nobody gets ready
    arguments = ["listen", "--api-url", discord.api_url, "--status"]
    with Terminal(*arguments, columns=80, lines=16) as terminal:
        assert terminal.until(lambda text: "connecting" in text and "and 30 more" in text), terminal.text
        assert terminal.text.splitlines()[0].startswith("0 of 40 shards ready")
        terminal.interrupt()
        assert terminal.end() == 0


@pytest.mark.discord(shards=3, max_concurrency=1)
def test_the_bar_says_how_long_the_rest_of_the_shards_will_take(discord):
    with Terminal("listen", "--api-url", discord.api_url, "--status") as terminal:
        # One identify in 5 s: two more after the first.
        assert terminal.until(lambda text: re.search(r"shards ready +━+[^\n]* 1/3 +0:(10|09) left", text)), (
            terminal.text
        )
        assert terminal.until(lambda text: re.search(r"1/3 +0:0[78] left", text)), terminal.text
        assert "identifying" in terminal.text or "waiting" in terminal.text
        assert terminal.until(lambda text: re.search(r"2/3 +0:0[45] left", text)), terminal.text
        terminal.interrupt()
        assert terminal.end() == 0


@pytest.mark.discord(shards=4, max_concurrency=2)
def test_the_bar_without_a_table_goes_away_and_events_stand_above_it(discord):
    arguments = ["listen", "--api-url", discord.api_url, "--intents", "guilds"]
    with Terminal(*arguments, columns=90) as terminal:
        assert terminal.until(lambda text: re.search(r"READY(.|\n)*shards ready +━[^\n]* 2/4 +0:0[45] left", text))
        assert terminal.until(lambda text: text.count("READY") == 4 and "shards ready" not in text), terminal.text
        terminal.interrupt()
        assert terminal.end() == 0


@pytest.mark.discord(shards=2, heartbeat_interval=0.2)
def test_with_a_table_events_still_go_into_the_pipe(discord, tmp_path):
    discord.traffic(100, MIX)
    piped = tmp_path / "events"
    arguments = ["listen", "--api-url", discord.api_url, "--intents", "all", "--status", "--count", "50"]
    with Terminal(*arguments, piped=str(piped)) as terminal:
        assert terminal.until(lambda text: "2 of 2 shards ready" in text), terminal.text
        assert terminal.end() == 0
        assert "MESSAGE_CREATE" not in terminal.text
    assert len([json.loads(line) for line in piped.read_text().splitlines()]) == 50


def test_a_table_needs_a_terminal(discord):
    done = listen(discord, "--status")
    assert done.returncode == 1
    assert done.stderr == "crux-sync: --status needs a terminal: neither stdout nor stderr is one\n"
