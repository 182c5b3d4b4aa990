"""The commands, as processes: their output, their exit status."""

import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime

import pytest

from crux_sync import Intents, cli

COMMAND = [sys.executable, "-m", "crux_sync"]


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False, **options)


def test_the_demo_loses_nothing():
    done = run("demo", "--seconds", "2", "--shards", "2", "--rate", "500")
    last = done.stdout.splitlines()[-1]
    match = re.fullmatch(r"demo: 2 shards ready, (\d+) events received, (\d+) sent, 0 lost, 1 resumed", last)
    assert match, done.stdout + done.stderr
    assert match[1] == match[2]
    assert int(match[1]) > 800
    assert done.returncode == 0
    assert done.stderr == ""


def test_the_demo_under_a_terminal_shows_a_bar():
    command = [*COMMAND, "demo", "--seconds", "1", "--shards", "2"]
    under_a_terminal = f"import pty, sys; sys.exit(pty.spawn({command!r}) >> 8)"
    done = subprocess.run(
        [sys.executable, "-c", under_a_terminal], capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    assert b"shards ready" in done.stdout
    assert b"2/2" in done.stdout


def test_listen_prints_json_lines(discord):
    discord.traffic(200)
    done = run("listen", "--api-url", discord.api_url, "--events", "message_create", "--intents", "all", "--count", "3")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["t"] for line in lines] == ["MESSAGE_CREATE"] * 3
    assert all(line["d"]["content"] and line["shard"] == 0 and line["s"] for line in lines)
    assert "shard 0: ready" in done.stderr
    assert done.returncode == 0


def test_listen_stops_after_some_seconds_and_warns(discord):
    done = run("listen", "--api-url", discord.api_url, "--events", "PRESENCE_UPDATE", "--seconds", "1")
    assert (done.returncode, done.stdout) == (0, "")
    assert "GUILD_PRESENCES" in done.stderr


def test_listen_into_a_closed_pipe(discord):
    discord.traffic(500)
    command = f"{sys.executable} -m crux_sync listen --intents all --api-url {discord.api_url} | head -n 2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert len(done.stdout.splitlines()) == 2
    assert "Traceback" not in done.stderr


@pytest.mark.discord(shards=3, granted_intents=int(Intents.GUILD_MEMBERS))
def test_info(discord):
    discord.world.application_flags |= 1 << 19
    done = run("info", "--api-url", discord.api_url)
    lines = [re.sub(" +", " ", line) for line in done.stdout.splitlines()]
    user = discord.world.user_id
    assert lines == [
        f"account crux, user {user}, in about 6 guilds",
        f"application crux, {user}",
        f"gateway {discord.url}",
        "shards 3 recommended",
        "identifies 1000 of 1000 left, no window is running",
        "concurrency 16 at a time, each bucket once in 5 s",
        "intent GUILD_PRESENCES: not granted",
        "intent GUILD_MEMBERS: granted",
        "intent MESSAGE_CONTENT: granted, limited",
        " to enable one: https://discord.com/developers/applications, page Bot",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.discord(remaining=7, identify_period=0.0)
def test_info_says_when_identifies_are_renewed(discord, connect):
    with connect():
        assert discord.wait_ready()
    facts = json.loads(run("info", "--json", "--api-url", discord.api_url).stdout)
    assert (facts["identifies"]["remaining"], facts["identifies"]["total"]) == (6, 1000)
    renewed = datetime.fromisoformat(facts["identifies"]["resets"])
    assert 86_300 < (renewed - datetime.now().astimezone()).total_seconds() < 86_500
    assert set(facts["privileged_intents"].values()) == {"granted"}
    assert facts["privileged_intents"].keys() == set(Intents.privileged().names())
    assert "renewed 20" in run("info", "--api-url", discord.api_url).stdout


@pytest.mark.parametrize("command", ["listen", "info"])
def test_a_refused_token_is_one_line_with_a_hint(discord, command):
    done = run(command, "--api-url", discord.api_url, env={"DISCORD_TOKEN": "wrong"})
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "DISCORD_TOKEN" in done.stderr
    assert "wrong" not in done.stderr.replace("the token is wrong", "")


def test_an_unreachable_api_is_one_line():
    done = run("info", "--api-url", "http://127.0.0.1:9/api/v10")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "127.0.0.1" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("listen", "--intents", "no_such"), ("demo", "--shards", "0")])
def test_wrong_usage(arguments):
    assert run(*arguments).returncode == 2


@pytest.mark.parametrize("tls", [False, True])
def test_simulate_serves_listen(tls, tmp_path):
    arguments = [*COMMAND, "simulate", "--shards", "2", "--rate", "100", *(["--tls"] if tls else [])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, **pipes, env={**os.environ, "TMPDIR": str(tmp_path)}) as simulator:
        url = simulator.stdout.readline().strip()
        assert re.fullmatch(r"https?://127\.0\.0\.1:\d+/api/v10", url)
        trust = ["--ca-file", simulator.stdout.readline().strip()] if tls else []
        done = run("listen", "--api-url", url, "--intents", "all", "--count", "5", *trust)
        assert len(done.stdout.splitlines()) == 5, done.stderr
        simulator.send_signal(signal.SIGTERM)
        _, err = simulator.communicate(timeout=10)
    assert simulator.returncode == 0
    assert "rule broken" not in err
    assert list(tmp_path.iterdir()) == []  # the authority's file is gone


@pytest.mark.parametrize("command", ["simulate", "replay"])
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, None])
def test_the_authority_of_a_simulator_is_removed_at_every_end(tmp_path, command, end):
    (tmp_path / "r.jsonl").write_text('{"recording":1}\n')
    arguments = [*COMMAND, command, "--tls", *(["--seconds", "0.5"] if end is None else [])]
    arguments += [str(tmp_path / "r.jsonl")] if command == "replay" else []
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, **pipes, env={**os.environ, "TMPDIR": str(temporary)}) as simulator:
        simulator.stdout.readline()
        name = simulator.stdout.readline().strip()
        assert [str(one) for one in temporary.iterdir()] == [name]
        if end is not None:
            simulator.send_signal(end)
        _, err = simulator.communicate(timeout=10)
    assert simulator.returncode == 0, err
    assert list(temporary.iterdir()) == []


def test_an_error_that_nobody_foresaw_is_one_line_too(monkeypatch, capsys):
    def broken(options):
        raise KeyError("foo\nbar")

    monkeypatch.setattr("crux_sync.cli.demo.run", broken)
    assert cli.main(["demo"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "KeyError" in line
    assert "--debug" in line
    with pytest.raises(KeyError):
        cli.main(["demo", "--debug"])
    with pytest.raises(KeyError):
        cli.main(["--debug", "demo"])


@pytest.mark.discord(granted_intents=0, allow_violations=True)
def test_a_missing_privileged_intent_is_one_line_that_says_where_to_enable_it(discord):
    done = run("listen", "--api-url", discord.api_url, "--intents", "guilds,message_content", "--seconds", "20")
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("shard 0: connected")]
    assert done.returncode == 3
    assert "MESSAGE_CONTENT" in line
    assert "https://discord.com/developers/applications" in line


def test_debug_shows_a_traceback_and_no_token():
    done = run("--debug", "info", "--api-url", "http://127.0.0.1:9/api/v10", env={"DISCORD_TOKEN": "very.secret.token"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "very.secret.token" not in done.stderr + done.stdout
