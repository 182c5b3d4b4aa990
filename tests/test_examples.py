"""Each example runs against the simulator."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import eventually

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"

#: An example as it stands, with a Gateway that knows the simulator.
PRELUDE = """
import runpy, sys, warnings, crux_sync
warnings.simplefilter("ignore")
api_url, path = sys.argv[1:]
class Gateway(crux_sync.Gateway):
    def __init__(self, token=None, **options):
        options.setdefault("intents", crux_sync.Intents.all())
        super().__init__(token, api_url=api_url, **options)
crux_sync.Gateway = Gateway
runpy.run_path(path, run_name="__main__")
"""


def run(discord, name: str) -> subprocess.Popen:
    environment = {**os.environ, "DISCORD_TOKEN": "test", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", PRELUDE, discord.api_url, str(EXAMPLES / name)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


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
        line = program.stdout.readline().strip()
        assert re.fullmatch(says, line) or program.stdout.readline(), line
        assert discord.wait_ready(2)
        program.send_signal(signal.SIGTERM)
        _, err = program.communicate(timeout=10)
    assert (program.returncode, err) == (0, "")


def test_the_iterator(discord):
    discord.traffic(200)
    with run(discord, "iterator.py") as program:
        out, err = program.communicate(timeout=20)
    assert (program.returncode, err) == (0, "")
    assert sum(int(line.split()[0]) for line in out.splitlines()) == 20


def test_the_flask_view(discord, monkeypatch):
    pytest.importorskip("flask")
    monkeypatch.setenv("DISCORD_TOKEN", "test")
    import runpy

    import crux_sync

    class Gateway(crux_sync.Gateway):
        def __init__(self, **options):
            super().__init__(api_url=discord.api_url, **options)

    monkeypatch.setattr(crux_sync, "Gateway", Gateway)
    names = runpy.run_path(str(EXAMPLES / "flask_view.py"))
    browser = names["app"].test_client()
    try:
        assert browser.get("/").json["shards"]
        assert eventually(lambda: len(browser.get("/").json["guilds"]) == 2)
        assert eventually(lambda: browser.get("/").json["shards"] == {"0": "ready"})
    finally:
        names["gateway"].close()


def test_the_tkinter_window(discord):
    pytest.importorskip("tkinter")
    if not os.environ.get("DISPLAY") and shutil.which("Xvfb") is None:
        pytest.skip("there is no display, and no Xvfb to make one")
    display = None
    try:
        if not os.environ.get("DISPLAY"):
            display = subprocess.Popen(["Xvfb", ":97"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            os.environ["DISPLAY"] = ":97"
            assert eventually(lambda: os.path.exists("/tmp/.X11-unix/X97"))
        with run(discord, "tkinter_window.py") as program:
            assert program.stdout.readline() == "shard 0 is ready\n"
            program.kill()
    finally:
        if display is not None:
            display.kill()
            display.wait()
            del os.environ["DISPLAY"]


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
