"""The documentation does what it says: what it shows is typed, written and run, against the simulator."""

import os
import re
import signal
import sys

import pytest
from pages import DOCS, blocks, page, running, type_in, write_files

PYTHON = sys.executable
PAGES = sorted(str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.rst"))


def environment(discord) -> dict[str, str]:
    return {"DISCORD_TOKEN": "test", "DISCORD_API_URL": discord.api_url}


@pytest.mark.parametrize("name", PAGES)
def test_every_python_block_compiles(name):
    for caption, text in blocks(name, "python"):
        compile(text, caption or name, "exec")


# -------------------------------------------------------------------- tutorial


def test_the_tutorial_typed_in_line_by_line(tmp_path):
    type_in("tutorial", tmp_path)


def test_the_bot_of_the_tutorial(discord, tmp_path):
    write_files("tutorial", tmp_path)
    with running([PYTHON, "bot.py"], tmp_path, **environment(discord)) as bot:
        assert bot.says("ready\n"), bot.said
        ada = {"id": "5", "username": "ada"}
        discord.dispatch("MESSAGE_CREATE", {"channel_id": "7", "author": ada, "content": "!hello"})
        assert bot.says("answered ada\n"), bot.said
        bot.signal(signal.SIGINT)
        assert bot.wait() == 0, bot.said
    assert discord.rest_requests[0].body == {"content": "hello, ada"}
    discord.dispatch("MESSAGE_CREATE", {"channel_id": "7", "author": ada | {"username": "bob"}, "content": "!hello"})
    with running([PYTHON, "bot.py"], tmp_path, **environment(discord)) as bot:
        assert bot.says("answered bob\n"), bot.said
        bot.signal(signal.SIGTERM)
        assert bot.wait() == 0, bot.said
        assert bot.said == "answered bob\n"
    assert len(discord.resumes) == 1


def test_the_commands_of_the_tutorial(tmp_path):
    text = page("tutorial")
    (port,) = re.findall(r"crux-sync simulate --port (\d+)", text)
    assert f"http://127.0.0.1:{port}/api/v10" in text
    with running([PYTHON, "-m", "crux_sync", "simulate", "--port", "0"], tmp_path) as simulator:
        assert simulator.says("/api/v10\n"), simulator.said
        simulator.signal(signal.SIGINT)
        assert simulator.wait() == 0


def test_the_test_of_the_tutorial(tmp_path):
    write_files("tutorial", tmp_path)
    with running([PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_bot.py"], tmp_path) as tests:
        assert tests.wait(60) == 0, tests.said
        assert "1 passed" in tests.said
        assert not os.path.exists("sessions.json")
