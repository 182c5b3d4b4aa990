"""The pages of the documentation, cut into what can be run: files, typed sessions, commands."""

import contextlib
import doctest
import os
import pathlib
import re
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import requests
from conftest import eventually

DOCS = pathlib.Path(__file__).parent.parent / "docs"

BLOCK = re.compile(
    r"^\.\. code-block:: (?P<language>\w+)\n(?P<options>(?:    :.*\n)*)\n(?P<text>(?:    .*\n|\n)+)", re.MULTILINE
)


def page(name: str) -> str:
    return (DOCS / f"{name}.rst").read_text() + "\n"


def blocks(name: str, language: str) -> list[tuple[str | None, str]]:
    """(caption, text) of each block of a page."""
    found = []
    for match in BLOCK.finditer(page(name)):
        if match["language"] == language:
            caption = re.search(r":caption: (\S+)", match["options"])
            found.append((caption[1] if caption else None, textwrap.dedent(match["text"]).strip("\n") + "\n"))
    return found


def write_files(name: str, folder: pathlib.Path) -> dict[str, str]:
    """Write the files that a page shows, under the names it gives them."""
    files = {}
    for language in ("python", "ini", "text", "html", "console"):
        for caption, text in blocks(name, language):
            if caption is not None:
                files[caption] = text
                path = folder / caption
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    return files


class Program:
    """A program that a page tells the reader to run, with what it has said so far."""

    def __init__(self, command: list[str], folder: pathlib.Path, stdin: bool = False, **environment: str) -> None:
        root = str(DOCS.parent)
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.said = ""
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self.said += line

    @property
    def pid(self) -> int:
        return self._process.pid

    def type(self, text: str) -> None:
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def says(self, text: str, timeout: float = 20.0) -> bool:
        """Wait until it has said ``text``, or has ended without."""
        eventually(lambda: text in self.said or (not self._reader.is_alive()), timeout)
        return text in self.said

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        status = self._process.wait(timeout)
        self._reader.join(5.0)
        return status

    def end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(5.0)
        self._process.stdout.close()


@contextlib.contextmanager
def running(command: list[str], folder: pathlib.Path, **settings) -> Iterator[Program]:
    program = Program(command, folder, **settings)
    try:
        yield program
    finally:
        program.end()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def fetch(url: str) -> dict | None:
    """The JSON of a page; None while nobody answers."""
    try:
        answer = requests.get(url, timeout=5)
    except requests.ConnectionError:
        return None
    return answer.json() if answer.ok else None


def type_in(name: str, folder: pathlib.Path) -> None:
    """Type the ``>>>`` lines of a page into an interactive Python, one by one, and compare what it says."""
    examples = doctest.DocTestParser().get_examples(page(name))
    assert examples
    # -i without a terminal: prompts go nowhere we look, what is said stays in order.
    command = [sys.executable, "-i", "-q", "-c", "import sys; sys.ps1 = sys.ps2 = ''"]
    with running(command, folder, stdin=True) as python:
        for number, example in enumerate(examples):
            start = len(python.said)
            for line in example.source.splitlines():
                python.type(line + "\n")
            if "\n" in example.source.strip():
                python.type("\n")  # the end of a block
            if "exit()" in example.source:
                assert python.wait() == 0
                continue
            assert eventually(lambda: python.said[start:] == example.want), (  # noqa: B023 - looked at here
                f"{name}, {number}: {example.source!r} said {python.said[start:]!r}, not {example.want!r}"
            )
        assert "Traceback" not in python.said
