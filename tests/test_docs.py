"""The documentation does what it says: what it shows is typed, written and run, against the simulator."""

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import sys

import pytest
from conftest import eventually
from pages import DOCS, blocks, fetch, free_port, page, running, type_in, write_files

EXAMPLES = DOCS.parent / "examples"
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


# -------------------------------------------------------------------- how to


@pytest.mark.parametrize("name", ["howto/shards", "howto/voice"])
def test_pages_to_type_in(name, tmp_path):
    type_in(name, tmp_path)


@pytest.mark.discord(identify_period=0)
def test_flask_serves_what_the_gateway_has_heard(discord, tmp_path):
    shutil.copy(EXAMPLES / "flask_view.py", tmp_path)
    write_files("howto/flask", tmp_path)
    port = free_port()
    commands = (
        [PYTHON, "-m", "flask", "--app", "flask_view", "run", "--no-reload", "--port", str(port)],
        [PYTHON, "-c", f"exec(open('serve.py').read().replace('8000', '{port}'))"],
    )
    for command in commands:
        with running(command, tmp_path, **environment(discord)) as server:
            url = f"http://127.0.0.1:{port}/"
            assert eventually(lambda: len((fetch(url) or {}).get("guilds", ())) == 2, 20), server.said  # noqa: B023
            assert fetch(url)["shards"] == {"0": "ready"}
            server.signal(signal.SIGINT)
            server.wait()
    assert len(discord.identifies) == 2


def test_gunicorn_has_one_gateway_and_another_when_its_worker_dies(discord, tmp_path):
    write_files("howto/gunicorn", tmp_path)
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    command = [PYTHON, "-m", "gunicorn", "app:app", "--bind", f"127.0.0.1:{port}"]
    with running(command, tmp_path, **environment(discord)) as server:
        assert eventually(lambda: len((fetch(url) or {}).get("guilds", ())) == 2, 20), server.said
        answers: dict[int, bool] = {}

        def both_workers_have_answered() -> bool:
            answer = fetch(url)
            if answer is not None:
                answers[answer["worker"]] = answer["gateway"]
            return len(answers) >= 2

        assert eventually(both_workers_have_answered, 20), server.said
        (holder,) = [worker for worker, has_gateway in answers.items() if has_gateway]
        assert len(discord.identifies) == 1
        (session,) = discord.sessions
        assert eventually(lambda: session.session_id in (tmp_path / "sessions.json").read_text())
        os.kill(holder, signal.SIGKILL)
        assert eventually(lambda: len(discord.resumes) == 1, 20), server.said
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert len(discord.identifies) == 1


FILESYSTEM_BROKER = """
import os
os.makedirs("queue", exist_ok=True)
broker_url = "filesystem://"
broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "queue"}
"""


def celery(app: str) -> list[str]:
    options = ["--concurrency", "1", "--loglevel", "info", "--without-gossip", "--without-mingle"]
    return [PYTHON, "-m", "celery", "--app", app, "worker", *options]


@pytest.fixture
def celery_files(tmp_path):
    pytest.importorskip("celery")
    write_files("howto/celery", tmp_path)
    (tmp_path / "celeryconfig.py").write_text(FILESYSTEM_BROKER)
    return tmp_path


def test_celery_works_on_what_the_gateway_sends(discord, celery_files):
    with (
        running(celery("tasks"), celery_files) as worker,
        running([PYTHON, "bot.py"], celery_files, **environment(discord)) as bot,
    ):
        assert worker.says(" ready."), worker.said
        assert discord.wait_ready(timeout=20), bot.said
        discord.dispatch("MESSAGE_CREATE", {"guild_id": "1", "author": {"username": "ada"}, "content": "hello"})
        archive = celery_files / "archive.txt"
        assert eventually(lambda: archive.exists() and archive.read_text() == "ada: hello\n", 20), worker.said
        bot.signal(signal.SIGTERM)
        assert bot.wait() == 0
        worker.signal(signal.SIGQUIT)  # SIGTERM would end it too; it takes seconds with this broker
        worker.wait()


def test_celery_with_the_gateway_inside(discord, celery_files):
    with running(celery("status"), celery_files, **environment(discord)) as worker:
        assert discord.wait_ready(timeout=20), worker.said
        (call,) = re.findall(r'python -c "(import status; .*)"', page("howto/celery"))
        with running([PYTHON, "-c", call], celery_files) as caller:
            assert caller.wait() == 0, caller.said
        assert discord.wait_for(lambda: 0 in discord.world.presences, 20), worker.said
        assert discord.world.presences[0]["activities"][0]["name"] == "chess"
        worker.signal(signal.SIGTERM)
        assert discord.wait_for(lambda: not discord.peers, 20), worker.said
        worker.wait()


DJANGO_SETTINGS = """
SECRET_KEY = "made up"
INSTALLED_APPS = ["guestbook"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""


def test_the_django_command(discord, tmp_path):
    pytest.importorskip("django")
    write_files("howto/django", tmp_path)
    for package in ("guestbook", "guestbook/management", "guestbook/management/commands"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "settings.py").write_text(DJANGO_SETTINGS)
    manage = [PYTHON, "-m", "django"]
    settings = environment(discord) | {"DJANGO_SETTINGS_MODULE": "settings"}
    with running([*manage, "migrate", "--run-syncdb"], tmp_path, **settings) as migrate:
        assert migrate.wait() == 0, migrate.said
    with running([*manage, "listen"], tmp_path, **settings) as command:
        assert discord.wait_ready(timeout=20), command.said
        for said in ("hello", "hello, edited"):  # the second time as after a crash
            message = {"id": "77", "guild_id": "1", "author": {"username": "ada"}, "content": said}
            discord.dispatch("MESSAGE_CREATE", message)
        assert eventually(lambda: command.said.count("kept 77\n") == 2), command.said
        command.signal(signal.SIGTERM)
        assert command.wait() == 0, command.said
    with contextlib.closing(sqlite3.connect(tmp_path / "site.db")) as database:
        assert database.execute("SELECT * FROM guestbook_message").fetchall() == [(77, "ada", "hello, edited")]


def test_the_systemd_unit(tmp_path):
    write_files("howto/systemd", tmp_path)
    unit = tmp_path / "crux-bot.service"
    text = unit.read_text()
    for section in ("[Unit]", "[Service]", "[Install]"):
        assert section in text
    assert "RestartPreventExitStatus=3" in text
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    unit.write_text(text.replace("/opt/crux-bot/.venv/bin/python", PYTHON))
    with running(["systemd-analyze", "verify", str(unit)], tmp_path) as verify:
        status = verify.wait()
        assert (status, [line for line in verify.said.splitlines() if "crux-bot" in line]) == (0, []), verify.said


def test_the_bot_of_the_systemd_unit(discord, tmp_path):
    write_files("howto/systemd", tmp_path)
    with running([PYTHON, "bot.py"], tmp_path, **environment(discord)) as bot:
        assert bot.says("shard 0: SHARD_READY"), bot.said
        bot.signal(signal.SIGTERM)
        assert bot.wait() == 0, bot.said
    with running([PYTHON, "bot.py"], tmp_path, **environment(discord) | {"DISCORD_TOKEN": "wrong"}) as bot:
        assert bot.wait() == 3, bot.said
        assert "the token is wrong or was reset" in bot.said


def test_the_tests_of_a_bot(tmp_path):
    write_files("howto/testing", tmp_path)
    with running([PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."], tmp_path) as tests:
        assert tests.wait(60) == 0, tests.said
        assert "3 passed" in tests.said


def test_the_inbox_is_complete_after_a_kill(discord, tmp_path):
    write_files("howto/restarts", tmp_path)

    def say(number: int) -> None:
        discord.dispatch("MESSAGE_CREATE", {"id": str(number), "guild_id": "1", "content": f"message {number}"})

    def inbox() -> list[str]:
        with contextlib.closing(sqlite3.connect(tmp_path / "inbox.db")) as database:
            return [one for (one,) in database.execute("SELECT id FROM inbox ORDER BY CAST(id AS INTEGER)")]

    for start in (0, 10, 20):
        with running([PYTHON, "inbox.py"], tmp_path, **environment(discord)) as bot:
            assert discord.wait_ready(timeout=20), bot.said
            for number in range(start, start + 5):
                say(number)
            assert eventually(lambda: str(start + 4) in inbox()), bot.said  # noqa: B023
            (session,) = discord.sessions
            assert eventually(lambda: session.session_id in (tmp_path / "sessions.json").read_text())  # noqa: B023
            bot.signal(signal.SIGKILL)
            bot.wait()
        assert discord.wait_for(lambda: not discord.peers)
        for number in range(start + 5, start + 10):
            say(number)
    with running([PYTHON, "inbox.py"], tmp_path, **environment(discord)):
        assert eventually(lambda: inbox() == [str(number) for number in range(30)]), inbox()
    assert len(discord.identifies) == 1
