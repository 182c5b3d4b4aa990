"""What all tests share: nothing may be left behind, and waiting is for conditions."""

import gc
import os
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import settings
from redis_server import client, keys, server, shared_server  # noqa: F401 - fixtures

from crux_sync import Gateway, Intents

# A busy machine is no fault of the code; and a verdict on a change must not depend on the day's luck.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

OURS = ("crux-shard", "crux-heartbeat", "crux-worker", "crux-keeper", "crux-sim", "crux-cluster", "crux-publisher")


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(OURS)]


def sockets() -> int:
    """Sockets this process holds."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return count


def eventually(condition: Callable[[], object], timeout: float = 10.0) -> bool:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.005)
    return True


@pytest.fixture(autouse=True)
def nothing_left_behind():
    before = sockets()
    yield
    assert eventually(lambda: not our_threads(), 5.0), our_threads()
    gc.collect()
    assert eventually(lambda: sockets() <= before, 5.0), "a socket was left open"


@pytest.fixture
def connect(discord):
    """A function that makes a gateway for the simulator; all are closed at the end."""
    made = []

    def make(token: str = "test", **options) -> Gateway:
        options = {"intents": Intents.all(), "api_url": discord.api_url, "ssl_context": discord.ssl_context} | options
        made.append(Gateway(token, **options))
        return made[-1]

    yield make
    for gateway in made:
        gateway.close(timeout=5.0)


class Log:
    """A callback that keeps what it was called with."""

    def __init__(self) -> None:
        self.events = []

    def __call__(self, event) -> None:
        self.events.append(event)

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    def sequences(self, shard_id: int = 0) -> list[int]:
        return [one.sequence for one in self.events if one.shard_id == shard_id and one.sequence is not None]

    def has(self, name: str, count: int = 1, timeout: float = 10.0) -> bool:
        return eventually(lambda: self.types.count(name) >= count, timeout)


@pytest.fixture
def log() -> Log:
    return Log()
