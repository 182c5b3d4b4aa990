"""A command under a pseudo-terminal, and its screen as a person would see it."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable
from typing import Self

import pyte


class Terminal:
    """Runs ``crux-sync`` with these arguments. ``piped``: stdout goes to this file instead of the screen."""

    def __init__(self, *arguments: str, columns: int = 100, lines: int = 24, piped: str | None = None) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=5000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.status: int | None = None
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(lines)}
            for name in ("NO_COLOR", "FORCE_COLOR", "DISCORD_TOKEN"):
                os.environ.pop(name, None)
            if piped is not None:
                os.dup2(os.open(piped, os.O_WRONLY | os.O_CREAT, 0o600), 1)
            os.execv(sys.executable, [sys.executable, "-m", "crux_sync", *arguments])
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def colour_of(self, word: str) -> str:
        """The colour in which a text is first shown, at its end."""
        for number, line in enumerate(self.screen.display):
            if word in line:
                return self.screen.buffer[number][line.index(word) + len(word) - 1].fg
        raise AssertionError(f"{word!r} is not on the screen:\n{self.text}")

    def until(self, condition: Callable[[str], object], timeout: float = 20.0) -> bool:
        """Read until the screen fulfils ``condition``, or the command ends; whether it did."""
        deadline = time.monotonic() + timeout
        while not condition(self.text):
            if time.monotonic() > deadline or not self._read(deadline):
                return bool(condition(self.text))
        return True

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # Linux says so when the last process has closed the terminal
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.write(self._fd, b"\x03")

    def end(self, timeout: float = 20.0) -> int:
        """Read to the end; the exit status."""
        self.until(lambda text: False, timeout)
        if self.status is None:
            deadline = time.monotonic() + 5.0
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            while not pid and time.monotonic() < deadline:
                select.select([], [], [], 0.02)
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            if not pid:
                raise AssertionError(f"still running:\n{self.text}")
            self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.status is None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        os.close(self._fd)
