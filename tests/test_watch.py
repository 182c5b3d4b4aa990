"""One thread waits for the sockets of many shards: who leads, who gets its own thread back, and when all part."""

import contextlib
import gc
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from conftest import eventually
from test_faults import FAULTS

from crux_sync import BroadcastDispatcher, DemandDispatcher, PartitionDispatcher
from crux_sync import watch as module
from crux_sync.limits import LocalIdentifyLimiter
from crux_sync.transport import TLSTransport, Transport
from crux_sync.watch import APART, POSSIBLE, STALL, Watch

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="without a GIL, or without epoll, every shard reads for itself")


class Member:
    """A real socket, and a thread that stands, reads for itself when it has to, and stands again."""

    def __init__(self, watch: Watch, name: str) -> None:
        self.watch = watch
        self.name = name
        self.near, self.far = socket.socketpair()
        #: Bytes taken, each with the thread that took it.
        self.steps: list[tuple[bytes, str]] = []
        #: Times that ``stand`` has returned.
        self.returned = 0
        #: Bytes that a step cannot deal with.
        self.beyond = b"!"
        self.slow: Callable[[], object] | None = None
        self.thread = threading.Thread(target=self.live, name=name)
        watch.join()
        self.thread.start()

    def fileno(self) -> int:
        return self.near.fileno()

    def step(self) -> bool:
        if self.slow is not None:
            self.slow()
        data = self.near.recv(100, socket.MSG_DONTWAIT)
        self.steps.append((data, threading.current_thread().name))
        return bool(data) and self.beyond not in data

    def live(self) -> None:
        while True:
            known = len(self.steps)
            self.watch.stand(self)
            self.returned += 1
            last = self.steps[-1][0] if len(self.steps) > known else b"."
            if not last:
                break
            if self.beyond in last:
                continue
            data = self.near.recv(100)
            self.steps.append((data, self.name))
            if not data:
                break
        self.watch.leave()
        self.near.close()

    def stands(self) -> bool:
        return any(place.member is self for place in self.watch._places.values())

    @property
    def data(self) -> bytes:
        return b"".join(data for data, _ in self.steps)

    def __repr__(self) -> str:
        return self.name


@pytest.fixture
def line() -> Iterator[tuple[Watch, list[Member]]]:
    """Five in line, the first in the list being the leader."""
    watch = Watch()
    members = [Member(watch, f"shard {number}") for number in range(5)]
    for member in members:
        while not member.stands():  # the first may have come alone, and busy locks are not waited for
            member.far.send(b".")
            eventually(member.stands, 0.05)
    assert eventually(lambda: watch._leader is not None)
    for member in members:
        assert eventually(lambda one=member: not pending(one))
        member.steps.clear()
    members.sort(key=lambda member: watch._leader.member is not member)
    yield watch, members
    for member in members:
        member.far.close()
    for member in members:
        member.thread.join(10)
        assert not member.thread.is_alive()
    assert repr(watch) == "<Watch of 0 of 0, led by nobody>"
    assert watch._epoll is None


def pending(member: Member) -> bool:
    try:
        return bool(member.near.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_the_leader_takes_the_steps_of_all(line):
    watch, members = line
    leader = members[0].name
    assert repr(watch) == f"<Watch of 5 of 5, led by {leader}>"
    for round in range(20):
        for member in members:
            member.far.send(b"%d" % (round % 10))
            assert eventually(lambda one=member, taken=round + 1: len(one.data) == taken)
    assert all(member.data == b"01234567890123456789" for member in members)
    assert {thread for member in members for _, thread in member.steps} == {leader}


def test_what_is_more_than_a_step_gets_its_own_thread_and_stands_again(line):
    watch, members = line
    one, before = members[3], members[3].returned
    one.far.send(b"!")
    assert eventually(lambda: one.returned == before + 1)
    assert eventually(one.stands)
    one.far.send(b"x")
    assert eventually(lambda: one.data == b"!x")
    assert one.steps[-1][1] == members[0].name == watch._leader.member.name


def test_where_the_leader_is_called_away_the_next_leads(line):
    watch, members = line
    members[0].far.close()
    members[0].thread.join(10)
    assert eventually(lambda: watch._leader is not None and watch._leader.member is not members[0])
    for member in members[1:]:
        member.far.send(b"x")
        assert eventually(lambda one=member: one.data == b"x")
    assert {member.steps[0][1] for member in members[1:]} == {watch._leader.member.name}
    assert repr(watch).startswith("<Watch of 4 of 4, led by")


def test_all_end_one_after_the_other_and_the_last_reads_for_itself(line):
    watch, members = line
    for member in members[:-1]:
        member.far.close()
        member.thread.join(10)
    last = members[-1]
    last.far.send(b"x")
    assert eventually(lambda: last.data == b"x")
    assert eventually(lambda: not last.stands())
    last.far.send(b"y")
    assert eventually(lambda: last.data == b"xy")
    assert last.steps[-1][1] == last.name
    assert not watch.worthwhile


def test_after_a_stall_all_read_for_themselves_and_come_back_later(line, monkeypatch):
    watch, members = line
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    pause = threading.Event()
    for expected in (APART[0], 2 * APART[0], 4 * APART[0]):
        members[2].slow = lambda: pause.wait(STALL)
        members[2].far.send(b"s")
        assert eventually(lambda: not watch._places)
        assert watch._apart_until == now[0] + expected
        members[2].slow = None
        for member in members:
            member.far.send(b"x")
            assert eventually(lambda one=member: one.data.endswith(b"x") and one.steps[-1][1] == one.name)
        assert not watch._places
        now[0] += expected
        for member in members:
            while not member.stands():
                member.far.send(b".")
                eventually(member.stands, 0.05)
    now[0] += 2 * APART[1]
    members[2].slow = lambda: pause.wait(STALL)
    members[2].far.send(b"s")
    assert eventually(lambda: not watch._places)
    assert watch._apart_until == now[0] + APART[0]
    now[0] += APART[0]


def test_a_computing_thread_makes_all_part(line):
    watch, members = line
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:

        def parted() -> bool:
            members[1].far.send(b"x")
            return watch._apart_until > 0

        assert eventually(parted)
    finally:
        stop.set()
        thread.join()
    assert eventually(lambda: not watch._places)


def test_much_to_do_is_no_stall(line, monkeypatch):
    """A step of megabytes takes long, and is work: the clock of the thread says so."""
    watch, members = line
    spent = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: spent[0])
    monkeypatch.setattr(module, "thread_time", lambda: spent[0])

    def work() -> None:
        spent[0] += 3 * STALL

    members[2].slow = work
    members[2].far.send(b"x")
    assert eventually(lambda: members[2].data == b"x")
    members[3].far.send(b"y")
    assert eventually(lambda: members[3].data == b"y")
    assert members[3].steps[-1][1] == members[0].name
    assert len(watch._places) == 5


def test_an_epoll_that_somebody_closed_is_replaced(line, monkeypatch):
    watch, members = line
    monkeypatch.setattr(module, "APART", (0.0, 0.0))
    os.close(watch._epoll.fileno())
    for member in members:
        member.far.send(b"x")
        assert eventually(lambda one=member: b"x" in one.data)
    for member in members:
        while not member.stands():
            member.far.send(b".")
            eventually(member.stands, 0.05)


def test_without_a_gil_each_reads_for_itself():
    watch = Watch(possible=False)
    members = [Member(watch, f"shard {number}") for number in range(3)]
    for member in members:
        member.far.send(b"x")
        assert eventually(lambda one=member: one.data == b"x")
        assert member.steps[-1][1] == member.name
    assert not watch._places
    for member in members:
        member.far.close()
        member.thread.join(10)


def test_many_come_and_go_at_once():
    watch = Watch()
    members = [Member(watch, f"shard {number}") for number in range(30)]
    for number in range(300):
        member = members[number % 30]
        member.far.send(b"!" if number % 7 == 0 else b"x")
    for member in members:
        assert eventually(lambda one=member: len(one.data) == 10), (member, member.steps, watch)
        member.far.close()
    for member in members:
        member.thread.join(10)
        assert not member.thread.is_alive()
    assert repr(watch) == "<Watch of 0 of 0, led by nobody>"


def test_without_a_descriptor_each_reads_for_itself(monkeypatch):
    def none_left() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module.select, "epoll", none_left)
    watch = Watch()
    members = [Member(watch, f"shard {number}") for number in range(2)]
    for member in members:
        member.far.send(b"x")
        member.far.send(b"y")
        assert eventually(lambda one=member: one.data == b"xy")
        assert {thread for _, thread in member.steps} == {member.name}
        member.far.close()
        member.thread.join(10)


# ------------------------------------------------------------------ with real shards


def epolls() -> int:
    return sum(os.readlink(f"/proc/self/fd/{name}").endswith("[eventpoll]") for name in existing())


def existing() -> list[str]:
    return [name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")]


SHARDS = 8


def at_rest(gateway, count: int, timeout: float) -> bool:
    return eventually(lambda: len(gateway._wiring.watch._places) == count, timeout)


def settle(discord, gateway, events, count: int) -> None:
    """Events, until all shards stand in line, and all of these events taken."""
    guilds = [guild_of(shard_id) for shard_id in gateway.shards]
    while not at_rest(gateway, count, 0):
        for guild_id in guilds:
            discord.dispatch("MESSAGE_CREATE", {"guild_id": guild_id, "content": "settle"})
        for _ in guilds:
            events.get(timeout=5)
        at_rest(gateway, count, 0.05)


def in_line(discord, connect, shards: int):
    """A gateway whose shards all stand in line, and its messages."""
    gateway = connect()
    events = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    assert discord.wait_ready(shards)
    settle(discord, gateway, events, shards)
    return gateway, events


def guild_of(shard_id: int, shards: int = SHARDS) -> str:
    """A guild of this shard."""
    return str(((1000 * shards) + shard_id) << 22)


@pytest.mark.discord(shards=SHARDS, max_concurrency=SHARDS)
@pytest.mark.parametrize(
    "tls", [pytest.param(False, id="ws"), pytest.param(True, marks=pytest.mark.discord(tls=True), id="wss")]
)
def test_shards_at_rest_are_read_by_one_thread_and_nothing_is_lost(discord, connect, monkeypatch, tls):
    from crux_sync.shard import Shard

    readers: dict[int, str] = {}
    step = Shard.step

    def noted(shard):
        readers[shard.id] = threading.current_thread().name
        return step(shard)

    monkeypatch.setattr(Shard, "step", noted)
    before = epolls()
    gateway, events = in_line(discord, connect, SHARDS)
    readers.clear()
    for number in range(40):
        for shard_id in range(SHARDS):
            discord.dispatch("MESSAGE_CREATE", {"guild_id": guild_of(shard_id), "content": str(number)})
    got: dict[int, list[str]] = {}
    for _ in range(40 * SHARDS):
        event = events.get(timeout=5)
        got.setdefault(event.shard_id, []).append(event.data["content"])
    assert got == {shard_id: [str(number) for number in range(40)] for shard_id in range(SHARDS)}
    assert set(readers) == set(range(SHARDS))
    assert len(set(readers.values())) == 1
    assert epolls() == before + 1
    gateway.close()
    assert epolls() == before


@pytest.mark.discord(shards=SHARDS, max_concurrency=SHARDS, heartbeat_interval=0.5)
@pytest.mark.parametrize("fault", ["drop", "reconnect", "close_connection", "stop_acks", "invalidate"])
def test_faults_of_any_shard_leave_the_others_reading(discord, connect, fault):
    gateway, events = in_line(discord, connect, SHARDS)
    leader = gateway._wiring.watch._leader.member.id
    for shard_id in (leader, (leader + 3) % SHARDS):
        arguments = {"close_connection": {"code": 4000}, "invalidate": {"resumable": True}}.get(fault, {})
        connects = gateway.shards[shard_id].connects
        getattr(discord, fault)(shard_id, **arguments)
        for number in range(SHARDS):  # the one in trouble gets it by replay
            discord.dispatch("MESSAGE_CREATE", {"guild_id": guild_of(number), "content": "x"})
        assert {events.get(timeout=15).shard_id for _ in range(SHARDS)} == set(range(SHARDS))
        assert eventually(lambda one=shard_id, known=connects: gateway.shards[one].connects == known + 1, 15)
        assert eventually(lambda: all(shard.state == "ready" for shard in gateway.shards.values()), 15)
    settle(discord, gateway, events, SHARDS)


@pytest.mark.discord(shards=SHARDS, max_concurrency=SHARDS, heartbeat_interval=600)  # no ack to wake anybody
def test_a_full_consumer_stops_its_shard_and_no_other(discord, connect):
    gateway = connect()
    events = gateway.subscribe("MESSAGE_CREATE")
    narrow = gateway.subscribe("TYPING_START", maxsize=4)
    gateway.start()
    assert discord.wait_ready(SHARDS)
    settle(discord, gateway, events, SHARDS)
    leader = gateway._wiring.watch._leader.member.id
    for number in range(20):
        discord.dispatch("TYPING_START", {"guild_id": guild_of(leader), "user_id": str(number)})
    assert eventually(lambda: gateway.shards[leader].session.blocked)
    others = [shard_id for shard_id in range(SHARDS) if shard_id != leader]
    for shard_id in others:
        discord.dispatch("MESSAGE_CREATE", {"guild_id": guild_of(shard_id), "content": "x"})
    assert {events.get(timeout=5).shard_id for _ in others} == set(others)
    assert gateway.shards[leader].session.blocked
    assert [narrow.get(timeout=5).data["user_id"] for _ in range(20)] == [str(number) for number in range(20)]
    assert eventually(lambda: not gateway.shards[leader].session.blocked)


@pytest.mark.discord(shards=2, max_concurrency=2)
def test_a_selector_that_hangs_holds_up_its_own_shard_only(discord, connect):
    gateway = connect()
    events = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    assert discord.wait_ready(2)
    go, asked = threading.Event(), threading.Event()

    def selector(event) -> bool:
        if event.shard_id == 0:
            asked.set()
            go.wait(20)
        return True

    gateway.subscribe("TYPING_START", selector=selector)  # while both may stand in line
    discord.dispatch("TYPING_START", {"guild_id": guild_of(0, 2)})
    assert asked.wait(5)
    for _ in range(3):
        discord.dispatch("MESSAGE_CREATE", {"guild_id": guild_of(1, 2), "content": "x"})
        assert events.get(timeout=5).shard_id == 1
    assert not gateway._wiring.watch._places  # nobody stands where it might run
    go.set()


@pytest.mark.discord(shards=2, max_concurrency=2)
def test_nobody_stands_where_permission_is_asked_for(discord, connect):
    gateway = connect(permitted=lambda: True)
    events = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    assert discord.wait_ready(2)
    for _ in range(5):
        for shard_id in range(2):
            discord.dispatch("MESSAGE_CREATE", {"guild_id": guild_of(shard_id, 2), "content": "x"})
            assert events.get(timeout=5).shard_id == shard_id
        assert not gateway._wiring.watch._places


def test_what_runs_user_code_is_known():
    class Mine(BroadcastDispatcher):
        pass

    ours = [BroadcastDispatcher(), DemandDispatcher(), PartitionDispatcher(4)]
    theirs = [Mine(), PartitionDispatcher(4, hash=lambda event: 0)]
    assert [one.runs_user_code for one in (*ours, *theirs)] == [False, False, False, True, True]


@pytest.mark.discord(shards=SHARDS, max_concurrency=SHARDS)
def test_shards_are_stopped_and_started_while_they_stand_in_line(discord, connect):
    before = epolls()
    gateway, events = in_line(discord, connect, SHARDS)
    leader = gateway._wiring.watch._leader.member.id
    gateway.stop_shard(leader, resume=False)
    assert gateway.shards[leader].state == "stopped"
    discord.dispatch("MESSAGE_CREATE", {"guild_id": guild_of((leader + 1) % SHARDS), "content": "x"})
    assert events.get(timeout=5).shard_id == (leader + 1) % SHARDS
    for shard_id in range(SHARDS):
        if shard_id != leader:
            gateway.stop_shard(shard_id, resume=True)
    assert repr(gateway._wiring.watch) == "<Watch of 0 of 0, led by nobody>"
    assert epolls() == before


@pytest.mark.discord(
    shards=3,
    max_concurrency=3,
    heartbeat_interval=0.5,
    heartbeat_tolerance=20,
    allow_violations=True,
    session_expiry=60,
)
@pytest.mark.parametrize("fault", [name for name, (_, outcome) in FAULTS.items() if outcome != "identify"])
def test_the_matrix_of_faults_for_a_shard_in_line(discord, connect, log, fault):
    """As in ``test_faults``, where shards read for themselves: what happens to one is met by another's thread."""
    gateway = connect(identify_limiter=LocalIdentifyLimiter(3, period=0.0))
    gateway.on()(log)
    gateway.on_error(lambda error, event, source: None)
    events = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    assert discord.wait_ready(3)
    settle(discord, gateway, events, 3)
    act, outcome = FAULTS[fault]
    for number in range(100):
        if number == 50:
            act(discord)
        for shard_id in range(3):
            discord.dispatch("TYPING_START", {"guild_id": guild_of(shard_id, 3), "n": number})
    if outcome == "resume":
        assert discord.wait_for(lambda: discord.resumes, 15)
    for session in discord.session_history:
        assert eventually(lambda of=session: log.sequences(of.shard_id)[-1] == of.sequence, 15)
        # Nothing lost, twice or out of order.
        assert log.sequences(session.shard_id) == [logged.sequence for logged in session.events]
    assert len(discord.identifies) == 3
    assert {gateway.shards[1].connects, gateway.shards[2].connects} == {1}


def far_end(shard) -> Transport:
    """The simulator's end of a shard's connection."""
    ours = shard._connection._transport
    return next(
        one
        for one in gc.get_objects()
        if isinstance(one, Transport)
        and one is not ours
        and one.fileno() >= 0
        and one._sock.getpeername() == ours._sock.getsockname()
    )


@pytest.mark.discord(shards=3, max_concurrency=3, heartbeat_interval=600)
@pytest.mark.parametrize("read_by", ["the leader", "its own thread"])
def test_a_close_frame_is_enough_to_leave_the_line(discord, connect, read_by):
    """The server says goodbye, and leaves the TCP stream open."""
    gateway, events = in_line(discord, connect, 3)
    watch = gateway._wiring.watch
    shard_id = next(one for one in range(3) if one != watch._leader.member.id)
    if read_by == "its own thread":
        watch._apart_until = time.monotonic() + 60
        with watch._lock:
            watch._relieve(watch._places[gateway.shards[shard_id].fileno()])
        discord.dispatch("MESSAGE_CREATE", {"guild_id": guild_of(shard_id, 3), "content": "x"})
        assert events.get(timeout=5).shard_id == shard_id
        assert at_rest(gateway, 2, 5)
        watch._apart_until = 0.0  # from the next receive on it may stand again
    far_end(gateway.shards[shard_id])._sock.sendall(b"\x88\x02\x0f\xa0")
    assert eventually(lambda: gateway.shards[shard_id].connects == 2, 8)


@pytest.mark.discord(shards=3, max_concurrency=3, tls=True)
@pytest.mark.parametrize("what", ["close_notify", "a record that is not authentic"])
def test_tls_that_ends_while_tcp_goes_on(discord, connect, what):
    gateway, events = in_line(discord, connect, 3)
    theirs = far_end(gateway.shards[1])
    assert isinstance(theirs, TLSTransport)
    with theirs._tls_lock:
        if what == "close_notify":
            with contextlib.suppress(ssl.SSLWantReadError):
                theirs._tls.unwrap()
            theirs._sock.sendall(theirs._outgoing.read())
        else:
            theirs._sock.sendall(b"\x17\x03\x03\x00\x20" + b"z" * 32)
    assert eventually(lambda: gateway.shards[1].connects == 2, 5)
    discord.dispatch("MESSAGE_CREATE", {"guild_id": guild_of(1, 3), "content": "x"})
    assert events.get(timeout=10).shard_id == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.discord(shards=3, max_concurrency=3)
def test_what_is_raised_in_a_step_ends_the_shard_it_is_of(discord, connect, monkeypatch):
    """Whatever it is: a SystemExit out of a function of the user's ends a thread, and it must be the right one."""
    gateway, events = in_line(discord, connect, 3)
    victim = next(one for one in range(3) if one != gateway._wiring.watch._leader.member.id)
    offer = gateway._hub.offer

    def leave(batch, routes):
        if batch[0].type == "TYPING_START":
            raise SystemExit
        return offer(batch, routes)

    gateway._hub.offer = leave
    gateway.subscribe("TYPING_START")
    discord.dispatch("TYPING_START", {"guild_id": guild_of(victim, 3)})
    assert eventually(lambda: gateway.shards[victim].state == "stopped")
    for shard_id in set(range(3)) - {victim}:
        discord.dispatch("MESSAGE_CREATE", {"guild_id": guild_of(shard_id, 3), "content": "x"})
        assert events.get(timeout=5).shard_id == shard_id


@pytest.mark.discord(shards=2, max_concurrency=2)
def test_a_selector_that_comes_in_the_middle_of_a_step(discord, connect):
    gateway, events = in_line(discord, connect, 2)
    victim = 1 - gateway._wiring.watch._leader.member.id
    connection, asked = gateway.shards[victim]._connection, []
    receive = connection.receive

    def slow(*, wait=True):
        payloads = receive(wait=wait)
        if payloads and not asked:
            gateway.subscribe("MESSAGE_CREATE", selector=lambda event: asked.append(threading.current_thread().name))
        return payloads

    connection.receive = slow
    discord.dispatch("MESSAGE_CREATE", {"guild_id": guild_of(victim, 2), "content": "x"})
    assert events.get(timeout=5).data["content"] == "x"
    assert asked == [f"crux-shard-{victim}"]
