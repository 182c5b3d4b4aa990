"""Real libraries accept the simulator: each logs in, gets a message, resumes after a drop and chunks a guild."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

from crux_sync.simulator import Simulator

HERE = pathlib.Path(__file__).parent
TOKEN = "NQ.made.up"  # its first part is an id, as in real tokens: hikari reads it
LARGE = 2500

pytestmark = pytest.mark.discord(token=TOKEN)


def play(discord: Simulator, command: list[str]) -> None:
    """The scene that every peer plays."""
    discord.add_guild(LARGE)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as peer:

        def line() -> str:
            assert peer.stdout is not None
            text = peer.stdout.readline().strip()
            if text == "unsupported":
                pytest.skip("this peer does not speak that compression here")
            assert text or peer.poll() is None, peer.communicate()[1]
            return text

        try:
            assert line() == "ready"
            message = discord.make("MESSAGE_CREATE")
            discord.dispatch("MESSAGE_CREATE", message)
            assert line() == f"message {message['content']}"
            discord.drop(0)
            assert line() == "resumed"
            assert line() == f"members {LARGE}"
            peer.wait(20)
        finally:
            peer.kill()
    assert len(discord.identifies) == 1
    assert len(discord.resumes) == 1


@pytest.mark.parametrize("compress", ["zlib-stream", "zstd-stream"])
@pytest.mark.parametrize("library", ["discord_py", "hikari"])
def test_python_libraries(discord, library, compress):
    pytest.importorskip({"discord_py": "discord"}.get(library, library))
    if compress == "zstd-stream":
        pytest.importorskip("zstandard")
    play(discord, [sys.executable, str(HERE / f"{library}_bot.py"), discord.api_url, discord.url, compress])


@pytest.fixture(scope="session")
def node_modules() -> pathlib.Path:
    """@discordjs/ws, installed once and kept in the user's temporary directory."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("npm is not installed")
    place = pathlib.Path(tempfile.gettempdir()) / f"crux-sync-peers-{os.getuid()}"
    if not (place / "node_modules" / "@discordjs" / "ws").exists():
        place.mkdir(exist_ok=True)
        (place / "package.json").write_text('{"name": "peers", "private": true}')
        command = [
            npm,
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "@discordjs/ws@2",
            "@discordjs/rest@2",
        ]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=240, check=False)
        if done.returncode != 0:
            pytest.skip(f"npm could not install @discordjs/ws: {done.stderr[-300:]}")
    return place


@pytest.mark.parametrize("compress", ["zlib-stream", "zstd-stream"])
def test_discord_js(discord, node_modules, compress):
    script = str(HERE / "discordjs_bot.mjs")
    play(discord, ["node", script, discord.api_url, discord.url, compress, str(node_modules)])
