"""TLS under load in both directions, closing against difficult servers, dialling over dead addresses."""

import socket
import ssl
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme
from conftest import eventually
from hypothesis import given
from hypothesis import strategies as st

from crux_sync.session import Session
from crux_sync.transport import TLSTransport, Transport, dial


@pytest.mark.discord(tls=True, shards=50, max_concurrency=50, guilds_per_shard=1)
def test_fifty_tls_connections_hammered_in_both_directions(discord, connect):
    gateway = connect()
    received = gateway.subscribe("PRESENCE_UPDATE", overflow="drop_oldest")
    gateway.start()
    assert discord.wait_ready(50, timeout=30)
    assert eventually(lambda: all(shard.state == "ready" for shard in gateway.shards.values()), 20)
    traffic = discord.traffic(8000)

    def hammer(first: int) -> None:
        for shard_id in range(first, 50, 4):
            for _ in range(100):
                gateway.send({"op": 31, "d": {"guild_ids": ["1"]}}, shard_id=shard_id)

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    traffic.stop()
    assert eventually(lambda: sum(shard.sequence for shard in gateway.shards.values()) == discord.sent, 20)
    assert discord.connections == 50  # not one was lost
    assert received.delivered > 1000


@pytest.mark.discord(tls=True)
@pytest.mark.parametrize("resume", [True, False])
def test_close_within_its_deadline_against_a_server_that_floods(discord, connect, resume):
    gateway = connect()
    gateway.subscribe()  # nobody reads it: the shard is blocked, and its socket full
    gateway.start()
    assert discord.wait_ready()
    traffic = discord.traffic(20_000)
    assert eventually(lambda: gateway.shards[0].session.blocked, 20)
    started = time.monotonic()
    gateway.close(resume=resume, timeout=3.0)
    assert time.monotonic() - started < 3.5
    traffic.stop()


def test_a_close_frame_that_is_never_answered(connect):
    """A server that reads and never says a word after the upgrade."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            from websockets.server import ServerProtocol

            sock, _ = server.accept()
            with sock:
                protocol = ServerProtocol()
                protocol.receive_data(sock.recv(65536))
                protocol.send_response(protocol.accept(protocol.events_received()[0]))
                sock.sendall(b"".join(protocol.data_to_send()))
                while sock.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        gateway = connect(url=f"ws://127.0.0.1:{server.getsockname()[1]}", shard_count=1)
        gateway.start()
        assert eventually(lambda: gateway.shards[0].connects == 1)
        started = time.monotonic()
        gateway.close(timeout=5.0)
        assert time.monotonic() - started < 3.0
        thread.join(5)


def test_an_address_that_never_answers_does_not_use_up_the_time(monkeypatch):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_server(("127.0.0.1", 0)) as good:
        # A full backlog is the loopback's way of not answering.
        stuffing = [socket.socket() for _ in range(4)]
        for one in stuffing:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", one.getsockname()) for one in (full, good)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: found)
        started = time.monotonic()
        with dial("anything", 1, started + 2.0, []) as sock:
            assert sock.getpeername() == good.getsockname()
        assert time.monotonic() - started < 1.5
        for one in stuffing:
            one.close()


def test_block_keeps_memory_flat(discord, connect):
    """Five minutes of a busy bot's traffic, sent at once, to a consumer that has stopped."""
    gateway = connect()
    subscription = gateway.subscribe()
    gateway.start()
    assert discord.wait_ready()
    assert eventually(lambda: gateway.shards[0].state == "ready")
    payload = {"guild_id": "1", "content": "x" * 600}
    discord._dispatch([("MESSAGE_CREATE", payload)] * 12_000)
    assert eventually(lambda: gateway.shards[0].session.blocked)
    queued = gateway.stats().subscriptions[0].waiting_bytes
    received = gateway.stats().shards[0].received_bytes
    discord._dispatch([("MESSAGE_CREATE", payload)] * 60_000)
    discord.request_heartbeat(0)
    assert discord.wait_for(lambda: discord.sent > 72_000)
    stats = gateway.stats()
    assert stats.subscriptions[0].waiting_bytes == queued < 20_000_000
    assert stats.shards[0].received_bytes == received
    got = 0
    while got < discord.sent:
        got += len([event for event in subscription.get_many(5000, timeout=10) if event.sequence is not None])
    assert gateway.shards[0].sequence == discord.sent
    assert discord.connections == 1


# ------------------------------------------------------------------ the session, fed with anything

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["heartbeat_interval", "session_id", "resume_gateway_url", "user"]), inner, max_size=4
        )
    ),
    max_leaves=6,
)
inputs = st.one_of(
    st.tuples(
        st.just("receive"),
        st.sampled_from([0, 1, 7, 9, 10, 11, 99]),
        anything,
        st.sampled_from([None, "READY", "RESUMED"]),
    ),
    st.tuples(st.sampled_from(["opened", "tick", "closing", "blocked", "unblocked", "stuck", "broken"])),
    st.tuples(st.just("lost"), st.sampled_from([None, 1000, 1001, 4000, 4004, 4007, 4009, 4999])),
    st.tuples(st.just("dial_failed")),
)


@given(st.lists(st.tuples(inputs, st.floats(min_value=0, max_value=100)), max_size=40))
def test_no_input_breaks_the_session(steps):
    session, now = Session(0, 1), 0.0
    for (what, *arguments), passed in steps:
        now += passed
        if what == "receive":
            op, data, type = arguments
            session.receive(op, data, now, type, 5 if type else None)
        elif what == "lost":
            session.lost(arguments[0], "", now)
        elif what == "dial_failed":
            session.dial_failed("refused", resume_url=False, now=now)
        elif what == "closing":
            session.closing(resumable=True)
        elif what == "blocked":
            session.blocked = True
        elif what == "stuck":
            session.send_stuck("stuck")
        elif what == "broken":
            session.protocol_broken("broken")
        else:
            getattr(session, what)(now)
        assert session.link is None or session.failures >= 0
        assert session.next_dial().resume is (session.session_id is not None and session.sequence is not None)


def test_a_read_that_does_not_wait():
    near, far = socket.socketpair()
    with near, far:
        transport = Transport(near, time.monotonic() + 5)
        transport.established()
        assert transport.read(wait=False) is None
        far.sendall(b"x")
        assert transport.read(wait=False) == b"x"
        assert transport.read(wait=False) is None
        far.close()
        assert transport.read(wait=False) == b""


def test_a_tls_record_that_comes_in_pieces_is_not_waited_for():
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    near, far = socket.socketpair()
    with near, far, ThreadPoolExecutor(1) as pool:
        deadline = time.monotonic() + 5
        server = pool.submit(TLSTransport, far, deadline, context, None)
        trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        client = TLSTransport(near, deadline, trusting, "localhost")
        peer = server.result(5)
        client.established()
        while client.read(wait=False) is not None:  # tickets
            pass
        peer._tls.write(b"hello")
        record = peer._outgoing.read()
        far.sendall(record[:-3])
        assert client.read(wait=False) is None
        far.sendall(record[-3:])
        assert client.read(wait=False) == b"hello"


@pytest.mark.parametrize("writes", [0, 3])
def test_what_came_before_a_reset_is_read(writes):
    """The close frame carries the code; a reset right behind it must not take it away."""
    for _ in range(30):
        with socket.create_server(("127.0.0.1", 0)) as server:
            sock = socket.create_connection(server.getsockname())
            transport = Transport(sock, time.monotonic() + 5)
            transport.established()
            peer, _ = server.accept()
            transport.write(b"unread: this makes the kernel reset")
            peer.sendall(b"\x88\x02\x0f\xa4")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            for _ in range(writes):
                transport.write(b"into the reset")
            assert transport.read() == b"\x88\x02\x0f\xa4"
            assert transport.read() == b""
            transport.close()
