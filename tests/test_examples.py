"""Each example runs against the simulator."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest
from conftest import eventually
from pages import fetch, free_port, running

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(discord, name: str, *arguments: str, folder: pathlib.Path = EXAMPLES, **settings: str):
    """An example as it stands; the environment says where the simulator is."""
    environment = {"DISCORD_TOKEN": "test", "DISCORD_API_URL": discord.api_url, "PYTHONWARNINGS": "error"}
    return running([sys.executable, str(EXAMPLES / name), *arguments], folder, **environment, **settings)


@pytest.mark.discord(shards=2)
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("decorators.py", r"shard \d is ready, in 2 guilds|\w+: \w+"),
        ("worker_pool.py", r"pool-\d: somebody types in channel \d+"),
        ("partitions.py", r"worker \d has guild \d+"),
    ],
)
def test_programs_that_run_until_they_are_told_to_stop(discord, name, says):
    discord.traffic(200)
    with run(discord, name) as program:
        assert eventually(lambda: re.search(says, program.said, re.MULTILINE)), program.said
        assert discord.wait_ready(2)
        program.signal(signal.SIGTERM)
        assert program.wait() == 0, program.said
        assert "Traceback" not in program.said


def test_the_iterator(discord):
    discord.traffic(200)
    with run(discord, "iterator.py") as program:
        assert program.wait() == 0, program.said
        assert sum(int(line.split()[0]) for line in program.said.splitlines()) == 20


def test_the_tkinter_window(discord):
    pytest.importorskip("tkinter")
    if not os.environ.get("DISPLAY") and shutil.which("Xvfb") is None:
        pytest.skip("there is no display, and no Xvfb to make one")
    with contextlib.ExitStack() as stack:
        display = os.environ.get("DISPLAY")
        if not display:
            display = ":97"
            stack.enter_context(running(["Xvfb", display], EXAMPLES))
            assert eventually(lambda: os.path.exists("/tmp/.X11-unix/X97"))
        program = stack.enter_context(run(discord, "tkinter_window.py", DISPLAY=display))
        assert program.says("shard 0 is ready\n"), program.said


ADA = {"id": "5", "username": "ada"}


def test_the_echo_bot_echoes_and_not_itself(discord):
    with run(discord, "echo_bot.py") as bot:
        assert discord.wait_ready()
        for content in ("!echo !echo hello", "hello", "!echo done"):
            message = {"id": "8", "channel_id": "7", "guild_id": "1", "author": ADA, "content": content}
            discord.dispatch("MESSAGE_CREATE", message)
        assert discord.wait_for(lambda: len(discord.rest_requests) >= 2), bot.said
        bot.signal(signal.SIGTERM)
        assert bot.wait() == 0, bot.said
    assert [one.body["content"] for one in discord.rest_requests] == ["!echo hello", "done"]
    assert discord.rest_requests[0].path == "/api/v10/channels/7/messages"
    assert discord.rest_requests[0].body["message_reference"] == {"message_id": "8"}


@pytest.mark.discord(heartbeat_interval=0.2)
def test_the_interaction_responder(discord):
    def ask(number: int, command: str) -> str:
        interaction = {"id": str(number), "token": "made-up", "type": 2, "data": {"name": command}}
        discord.dispatch("INTERACTION_CREATE", interaction)
        assert discord.wait_for(lambda: len(discord.rest_requests) == number), bot.said
        return discord.rest_requests[-1].body["data"]["content"]

    with run(discord, "interaction_responder.py") as bot:
        assert discord.wait_ready()
        assert discord.wait_for(lambda: discord.peers[0].beats >= 2)
        assert re.fullmatch(r"\d+ ms", ask(1, "ping"))
        assert ask(2, "pong") == "I do not know that command"


def test_the_moderation_log_has_no_gap_and_nothing_twice(discord, tmp_path):
    def ban(number: int) -> None:
        entry = {"id": str(number), "guild_id": "1", "user_id": "5", "target_id": "6", "action_type": 22}
        discord.dispatch("GUILD_AUDIT_LOG_ENTRY_CREATE", entry)

    def kept() -> list[tuple[str, str]]:
        with contextlib.closing(sqlite3.connect(tmp_path / "moderation.db")) as database:
            return database.execute("SELECT id, kind FROM log ORDER BY id").fetchall()

    with run(discord, "moderation_log.py", folder=tmp_path) as program:
        assert discord.wait_ready()
        ban(1)
        ban(1)
        assert eventually(lambda: program.said.count("ban: 6 by 5") == 2), program.said
        program.signal(signal.SIGTERM)
        assert program.wait() == 0, program.said
    ban(2)
    with run(discord, "moderation_log.py", folder=tmp_path) as program:
        assert program.says("ban: 6 by 5"), program.said
    assert kept() == [("1", "ban"), ("2", "ban")]


def test_the_presence_clock(discord):
    def shown() -> str:
        return discord.world.presences[0]["activities"][0]["state"]

    with run(discord, "presence_clock.py", CLOCK_SECONDS="1") as program:
        assert discord.wait_for(lambda: 0 in discord.world.presences), program.said
        first = shown()
        assert re.fullmatch(r"it is \d\d:\d\d:\d\d", first)
        assert discord.wait_for(lambda: shown() != first), program.said
        program.signal(signal.SIGINT)
        assert program.wait() == 0, program.said


@pytest.mark.discord(members=2345)
def test_the_member_export(discord):
    guild = next(iter(discord.world.guilds.values()))
    with run(discord, "export_members.py", guild.id) as program:
        assert program.wait() == 0, program.said
    rows = [line for line in program.said.splitlines() if re.match(r"\d+,", line)]
    assert "id,name,joined,bot" in program.said
    assert [row.split(",")[0] for row in rows] == [guild.user(number)["id"] for number in range(2345)]
    assert [row.split(",")[3] for row in rows].count("True") == 1
    assert re.search(r"members\b.*100%", program.said)


def test_the_uptime_monitor(discord):
    with run(discord, "uptime_monitor.py") as program:
        assert program.says("shard 0 is up\n"), program.said
        discord.drop(0)
        assert program.says("it resumes\n"), program.said
        assert eventually(lambda: program.said.count("shard 0 is up\n") == 2), program.said
        program.signal(signal.SIGINT)
        assert program.wait() == 0, program.said
    share, connections = re.search(r"shard 0 was up ([\d.]+) % of the time, on (\d) connections", program.said).groups()
    assert 0 < float(share) < 100
    assert connections == "2"


def test_the_dashboard_in_a_browser(discord, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no chromium")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "flask", "--app", str(EXAMPLES / "dashboard.py"), "run", "--port", str(port)]
    environment = {"DISCORD_TOKEN": "test", "DISCORD_API_URL": discord.api_url}
    with running(command, tmp_path, **environment) as server:
        assert eventually(lambda: fetch(f"{url}/stats") is not None), server.said
        assert eventually(lambda: fetch(f"{url}/stats")["shards"][0][1] == "ready"), server.said
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=800,500"]
        options += [f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=3000"]
        with running([browser, *options, "--dump-dom", url], tmp_path) as page:
            assert page.wait(60) == 0, page.said
        picture = tmp_path / "dashboard.png"
        with running([browser, *options, f"--screenshot={picture}", url], tmp_path) as shot:
            assert shot.wait(60) == 0, shot.said
    assert '<td class="ready">ready</td>' in page.said
    assert '<td class="GUILD_CREATE">GUILD_CREATE</td>' in page.said
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_test_of_a_bot():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "test_my_bot.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_the_plugin_fails_a_client_that_breaks_a_rule(tmp_path):
    (tmp_path / "test_client.py").write_text(
        "import pytest, websocket\n"
        "def breach(discord):\n"
        "    client = websocket.create_connection(discord.url + '/?v=10&encoding=json')\n"
        "    client.send('nonsense')\n"
        "    assert discord.wait_for(lambda: discord.violations)\n"
        "    client.close()\n"
        "def test_breaks(discord): breach(discord)\n"
        "@pytest.mark.discord(allow_violations=True)\n"
        "def test_may(discord): breach(discord)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert "the client broke rules of the gateway: undecodable" in done.stdout
    assert "2 passed, 1 error" in done.stdout
