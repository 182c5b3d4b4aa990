"""The cluster's commands, as processes, and the example."""

import json
import pathlib
import re
import subprocess
import sys

import pytest
from cluster_tools import until
from terminal import Terminal

from crux_sync.cli import main
from crux_sync.cluster.config import agree
from crux_sync.cluster.status import Observer

EXAMPLE = pathlib.Path(__file__).parent.parent.parent / "examples" / "cluster" / "demo.py"


@pytest.fixture
def name(keys):
    return keys.prefix.split("{")[1].split("}")[0]


@pytest.mark.discord(shards=2, max_concurrency=2)
def test_run_worker_and_status(discord, shared_server, name, tmp_path, capsys, monkeypatch):
    place = ["--redis", shared_server.url, "--name", name]
    monkeypatch.setenv("DISCORD_TOKEN", "test")
    (tmp_path / "bot.py").write_text(
        "from crux_sync.cluster import Worker\n"
        f"worker = Worker({shared_server.url!r}, name={name!r})\n"
        "worker.on('READY')(lambda event: print(event.shard_id, flush=True))\n"
    )
    command = [sys.executable, "-m", "crux_sync", "cluster"]
    running = [
        subprocess.Popen([*command, "run", *place, "--api-url", discord.api_url, "--partitions", "4"]),
        subprocess.Popen([*command, "worker", "bot:worker"], cwd=tmp_path, stdout=-1, text=True),
    ]
    try:
        assert sorted(running[1].stdout.readline() for _ in range(2)) == ["0\n", "1\n"]
        with Observer(shared_server.url, name=name) as observer:
            until(lambda: all(one["handled"] for one in observer.look()["shards"]))
            until(lambda: not any(one["waiting"] for one in observer.look()["partitions"]))
        assert main(["cluster", "status", *place, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (len(found["gateways"]), len(found["workers"]), len(found["partitions"])) == (1, 1, 4)
        assert [one["owner"] for one in found["shards"]] == found["gateways"] * 2
        assert {one["owner"] for one in found["partitions"]} == set(found["workers"])
        assert main(["cluster", "status", *place]) == 0
        assert "gateways 1, workers 1, identifies left 998, poison 0" in capsys.readouterr().out
    finally:
        for process in running:
            process.terminate()
            process.communicate(timeout=15)
    assert [process.returncode for process in running] == [0, 0]
    assert len(discord.identifies) == 2


def test_status_is_live_on_a_terminal(client, keys, shared_server, name):
    agree(client, keys, partitions=2, shards=1)
    with Terminal("cluster", "status", "--redis", shared_server.url, "--name", name) as terminal:
        assert terminal.until(lambda text: "gateways 0, workers 0, identifies left unknown" in text), terminal.text
        client.hset(keys.shard(0), "owner", "somewhere-1")
        client.xadd(keys.events(1), {"t": "READY"})
        shown = re.compile(r"0  somewhere-1 +-\n +part +worker .*\n +0 +- +0 +0\n +1 +- +1 +0$")
        assert terminal.until(shown.search), terminal.text
        terminal.interrupt()
        assert terminal.end() == 0


def test_poison(client, keys, shared_server, name, capsys):
    place = ["--redis", shared_server.url, "--name", name]
    agree(client, keys, partitions=1)
    fields = {"t": "READY", "s": 1, "h": 0, "n": 1, "i": "s", "d": b"{}", "partition": 0, "entry": "1-1", "tries": 3}
    number = client.xadd(keys.poison, fields).decode()
    assert main(["cluster", "poison", *place]) == 0
    assert capsys.readouterr().out == f"{number}  READY  shard 0  tried 3 times  2 bytes\n"
    assert main(["cluster", "poison", *place, "--retry", number]) == 0
    assert client.xlen(keys.events(0)) == 1
    assert main(["cluster", "poison", *place, "--drop", number]) == 1
    assert "no poison event" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["status", "--redis", "redis://127.0.0.1:1/0"], "Redis: "),
        (["status", "--redis", "http://127.0.0.1"], "no Redis url"),
        (["worker", "bot"], "MODULE:WORKER"),
        (["worker", "json:loads"], "is no crux_sync.cluster.Worker"),
    ],
)
def test_errors_are_one_line(arguments, text, capsys):
    assert main(["cluster", *arguments]) == 1
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_the_example():
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "300 events handled" in done.stdout
    assert "4 identifies, 1 gateway left" in done.stdout
