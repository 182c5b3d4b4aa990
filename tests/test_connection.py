"""How a connection chooses between inflating per message and in batches, and what it asks of the socket."""

import threading
import zlib
from itertools import pairwise

import pytest
from test_frames import frame

from crux_sync import connection as module
from crux_sync.connection import BATCHED_RECEIVES, PROBE, STALLED_RECEIVE_SIZE, Connection
from crux_sync.transport import RECEIVE_SIZE


class Wire:
    """Stands for the transport: what it hands out was compressed and framed for real."""

    def __init__(self, receives: list[bytes]) -> None:
        self.receives = receives
        self.sizes: list[int] = []

    def read(self, size: int, *, wait: bool = True) -> bytes:
        self.sizes.append(size)
        return self.receives.pop(0) if self.receives else b""


class Inflater:
    """The real one, and a clock that stands still but for the stalls it is told of."""

    def __init__(self, inner, clock) -> None:
        self.inner, self.clock = inner, clock
        self.calls: list[tuple[int, bool]] = []

    def inflate(self, messages, *, batched=False):
        self.calls.append((len(messages), batched))
        if self.clock.stalls:
            self.clock.now += 0.005
        return self.inner.inflate(messages, batched=batched)


class Clock:
    now = 0.0
    stalls = False

    def __call__(self) -> float:
        return self.now


def payload(number: int) -> bytes:
    return b'{"t":"X","s":%d,"op":0,"d":{}}' % number


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock)
    return clock


def connect(clock: Clock, receives: int, messages: int) -> tuple[Connection, Wire, Inflater]:
    """A connection that will get so many receives of so many messages each."""
    context, wire = zlib.compressobj(), Wire([])
    for number in range(receives):
        texts = [payload(number * messages + index) for index in range(messages)]
        wire.receives.append(
            b"".join(frame(context.compress(text) + context.flush(zlib.Z_SYNC_FLUSH)) for text in texts)
        )
    connection = Connection()
    connection._transport = wire
    connection._inflater = inflater = Inflater(connection._inflater, clock)
    return connection, wire, inflater


def test_per_message_while_nothing_stalls(clock):
    connection, wire, inflater = connect(clock, 3, 40)
    got = [payload for _ in range(3) for payload in connection.receive()]
    assert got == [payload(number) for number in range(120)]
    assert inflater.calls == [(PROBE, False), (PROBE, False), (40 - 2 * PROBE, False)] * 3
    assert set(wire.sizes) == {RECEIVE_SIZE}


def test_a_stall_costs_one_probe_and_the_rest_goes_in_one_call(clock):
    connection, wire, inflater = connect(clock, 2, 40)
    clock.stalls = True
    got = [payload for _ in range(2) for payload in connection.receive()]
    assert got == [payload(number) for number in range(80)]
    assert inflater.calls == [(PROBE, False), (40 - PROBE, True), (40, True)]
    assert wire.sizes == [RECEIVE_SIZE, STALLED_RECEIVE_SIZE]


def test_the_longer_stalls_go_on_the_rarer_they_are_measured(clock):
    connection, _, inflater = connect(clock, 300, 20)
    clock.stalls = True
    for _ in range(300):
        connection.receive()
    probes = [index for index, (_, batched) in enumerate(inflater.calls) if not batched]
    gaps = [after - before for before, after in pairwise(probes)]
    assert gaps == sorted(gaps)
    assert gaps[0] == BATCHED_RECEIVES[0] + 2  # the rest of the first receive, and the probe itself
    assert gaps[-1] == BATCHED_RECEIVES[1] + 2


def test_one_stall_alone_is_soon_forgotten(clock):
    connection, wire, inflater = connect(clock, 12, 20)
    clock.stalls = True
    connection.receive()
    clock.stalls = False
    for _ in range(11):
        connection.receive()
    assert sum(batched for _, batched in inflater.calls) == BATCHED_RECEIVES[0] + 1
    assert wire.sizes[-1] == RECEIVE_SIZE


def test_a_single_message_is_not_timed(clock):
    connection, _, inflater = connect(clock, 5, 1)
    clock.stalls = True
    for _ in range(5):
        connection.receive()
    assert inflater.calls == [(1, False)] * 5


def test_a_real_computing_thread_is_noticed():
    connection, wire, _ = connect(Clock(), 40, 100)
    stop = threading.Event()

    def compute() -> None:
        total = 0
        while not stop.is_set():
            total += sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        for _ in range(40):
            connection.receive()
    finally:
        stop.set()
        thread.join()
    assert STALLED_RECEIVE_SIZE in wire.sizes
