"""What the log says: a logger for each module, the shard in every record of one, quiet at INFO, useful at DEBUG."""

import logging
import pathlib
import re

import pytest
from conftest import eventually

import crux_sync

PACKAGE = pathlib.Path(crux_sync.__file__).parent
TOKEN = "MTk4.never.to-be-seen"


def test_every_module_that_logs_has_its_own_logger():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if re.search(r"^logger\b|\blogger\.", text, re.MULTILINE):
            assert "logger = logging.getLogger(__name__)" in text, path
        assert not re.search(r"\blogging\.(debug|info|warning|error|exception)\(", text), path


@pytest.mark.discord(shards=2, token=TOKEN, heartbeat_interval=0.2)
def test_a_connection_step_by_step_at_debug_with_the_shard_and_without_the_token(discord, connect, caplog):
    caplog.set_level(logging.DEBUG, "crux_sync")
    gateway = connect(TOKEN)
    gateway.start()
    assert discord.wait_ready()
    discord.reconnect(1)
    assert discord.wait_for(lambda: discord.resumes)
    assert eventually(lambda: gateway.shards[1].state == "ready" and gateway.shards[1].latency)
    gateway.close()
    records = [one for one in caplog.records if one.name == "crux_sync.shard"]
    assert {one.shard for one in records} == {0, 1}
    assert all(one.getMessage().startswith(f"shard {one.shard}: ") for one in records)
    second = [one.getMessage().removeprefix("shard 1: ") for one in records if one.shard == 1]
    steps = [
        "waiting for",
        "dialling, to identify",
        "connected",
        "identifying",
        "ready",
        "leaving: reconnect requested",
    ]
    steps += ["disconnected", "next connection in", "dialling, to resume", "connected", "resuming after", "resumed"]
    told = iter(second)
    assert all(any(line.startswith(step) for line in told) for step in steps), second
    assert any(re.fullmatch(r"heartbeat acknowledged after \d+ ms", line) for line in second)
    assert "gateway at ws://" in caplog.text
    assert TOKEN not in caplog.text
    assert not any(session.session_id in caplog.text for session in discord.session_history)


def test_nothing_at_info_while_all_is_well(discord, connect, caplog):
    caplog.set_level(logging.INFO, "crux_sync")
    gateway = connect()
    events = gateway.subscribe("MESSAGE_CREATE")
    with gateway:
        assert discord.wait_ready()
        for _ in range(20):
            discord.dispatch("MESSAGE_CREATE")
        for _ in range(20):
            events.get(timeout=5)
    assert [one.getMessage() for one in caplog.records if one.name.startswith("crux_sync")] == []
