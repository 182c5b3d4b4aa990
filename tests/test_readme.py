"""The README's code runs, and its commands are the ones that exist."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import pytest

README = (pathlib.Path(__file__).parent.parent / "README.rst").read_text()
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"\.\. code:: python\n\n((?:    .*\n|\n)+)", README + "\n")]

#: The README's Gateway, told where the simulator is.
HERE = (
    "import crux_sync, functools, sys\ncrux_sync.Gateway = functools.partial(crux_sync.Gateway, api_url=sys.argv[1])\n"
)


def block(start: str) -> str:
    (found,) = [one for one in BLOCKS if start in one]
    return found


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_is_python(number):
    compile(BLOCKS[number], "README.rst", "exec")


def test_the_ten_line_bot(discord):
    environment = {**os.environ, "DISCORD_TOKEN": "test", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-W", "ignore", "-c", HERE + block("gateway.run()"), discord.api_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as bot:
        assert discord.wait_ready()
        discord.dispatch("MESSAGE_CREATE", {"guild_id": "1", "author": {"username": "ada"}, "content": "hello"})
        assert bot.stdout.readline() == "ada: hello\n"
        bot.send_signal(signal.SIGINT)
        _, err = bot.communicate(timeout=10)
    assert (bot.returncode, err) == (0, "")


def test_the_test_of_a_bot(tmp_path):
    (tmp_path / "test_bot.py").write_text("from crux_sync import Gateway\n" + block("def test_it_answers(discord)"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert "1 passed" in done.stdout, done.stdout


def test_the_commands_exist():
    done = subprocess.run(
        [sys.executable, "-m", "crux_sync", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    for command in re.findall(r"``crux-sync (\w+)``", README):
        assert re.search(rf"^ +{command} ", done.stdout, re.MULTILINE), command
