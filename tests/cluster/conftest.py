"""A real Redis for the tests: started once on loopback, with an append-only file; each test has keys of its own."""

import uuid

import pytest

pytest.importorskip("redis")

from redis_server import Server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("redis"), "--appendonly", "yes")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(tmp_path):
    """One of a test's own, to be killed and paused."""
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
