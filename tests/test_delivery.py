"""Dispatchers, subscriptions, overflow, callbacks, waiting: what each promises."""

import dataclasses
import pathlib
import re
import subprocess
import sys
import textwrap
import threading
from typing import TypedDict

import msgspec
import pytest
from conftest import eventually
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crux_sync import (
    CLOSED,
    ConfigurationError,
    DemandDispatcher,
    Dispatcher,
    Event,
    GatewayClosed,
    PartitionDispatcher,
    listens,
)
from crux_sync.dispatch import Hub
from crux_sync.dispatchers import BroadcastDispatcher
from crux_sync.subscription import Subscription


def create(number: int, type: str = "MESSAGE_CREATE", guild: int = 0, shard_id: int = 0) -> Event:
    return Event.create(type, {"guild_id": str(guild << 22), "n": number}, shard_id, number)


class OpenGate:
    """A shard that never waits: what does not fit is given up at once."""

    def cancelled(self) -> bool:
        return True

    def blocking(self):
        import contextlib

        return contextlib.nullcontext()


def numbers(events) -> list[int]:
    return [event.sequence for event in events]


# ------------------------------------------------------------------ a model of the dispatchers


class Delivery(RuleBasedStateMachine):
    """Random subscribes, unsubscribes, slow consumers and events: each dispatcher keeps its promise."""

    dispatcher: Dispatcher

    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub(self.make(), lambda error, event, source: None)
        self.subscriptions: list[Subscription] = []
        self.promised: dict[Subscription, list[int]] = {}
        self.taken: dict[Subscription, list[int]] = {}
        self.dealt: dict[int, int] = {}
        self.number = 0

    def make(self) -> Dispatcher:
        return BroadcastDispatcher()

    @rule(
        names=st.sampled_from([None, frozenset({"A"}), frozenset({"B"}), frozenset({"A", "B"})]),
        maxsize=st.integers(min_value=1, max_value=6),
        overflow=st.sampled_from(["drop_oldest", "drop_newest"]),
        odd=st.booleans(),
    )
    def subscribe(self, names, maxsize, overflow, odd):
        selector = (lambda event: event.sequence % 2) if odd else None
        one = Subscription(names, selector=selector, maxsize=maxsize, overflow=overflow, on_close=self.hub.leave)
        self.hub.join(one)
        self.subscriptions.append(one)
        self.promised[one], self.taken[one] = [], []

    @precondition(lambda self: self.subscriptions)
    @rule(data=st.data())
    def unsubscribe(self, data):
        one = data.draw(st.sampled_from(self.subscriptions))
        one.close()
        self.subscriptions.remove(one)

    @rule(
        types=st.lists(st.sampled_from("AB"), min_size=1, max_size=5),
        shard_id=st.integers(min_value=0, max_value=2),
        guild=st.integers(min_value=0, max_value=3),
    )
    def publish(self, types, shard_id, guild):
        events = []
        for type in types:
            self.number += 1
            events.append(create(self.number, type, guild, shard_id))
        before = {one: one.delivered + one.dropped for one in self.subscriptions}
        self.hub.publish(events, OpenGate())
        self.check(events, before)

    def check(self, events, before):
        for one in self.subscriptions:
            wanted = [
                event.sequence
                for event in events
                if (one.names is None or event.type in one.names) and (one.selector is None or event.sequence % 2)
            ]
            self.promised[one] += wanted

    @precondition(lambda self: self.subscriptions)
    @rule(data=st.data(), most=st.integers(min_value=1, max_value=4))
    def consume(self, data, most):
        one = data.draw(st.sampled_from(self.subscriptions))
        self.taken[one] += numbers(one.queue.take(most, block=False))

    @invariant()
    def order_is_kept_and_nothing_comes_twice(self):
        for one, taken in self.taken.items():
            seen = taken + numbers(one.queue.queue)
            assert seen == sorted(set(seen))
            assert set(seen) <= set(self.promised[one])

    @invariant()
    def what_is_missing_was_dropped_and_counted(self):
        for one in self.subscriptions:
            seen = len(self.taken[one]) + one.waiting
            assert seen + one.dropped == len(self.promised[one])
            assert one.waiting <= one.queue.maxsize
            assert one.queue.bytes == sum(event.size for event in one.queue.queue)


class DemandDelivery(Delivery):
    """Each event to exactly one of those that want it."""

    def make(self) -> Dispatcher:
        return DemandDispatcher()

    def check(self, events, before):
        total = 0
        for one in self.subscriptions:
            total += one.delivered + one.dropped - before[one] if one.overflow == "drop_newest" else 0
        for event in events:
            takers = [
                one
                for one in self.subscriptions
                if (one.names is None or event.type in one.names) and (one.selector is None or event.sequence % 2)
            ]
            holders = [one for one in takers if event.sequence in numbers(one.queue.queue)]
            assert len(holders) <= 1
            for one in holders:
                self.promised[one].append(event.sequence)

    @invariant()
    def what_is_missing_was_dropped_and_counted(self):
        everything = [number for one, taken in self.taken.items() for number in taken + numbers(one.queue.queue)]
        assert len(everything) == len(set(everything))


class PartitionDelivery(DemandDelivery):
    """Each event to the one subscription of its guild's partition, through re-subscribes too."""

    free = ("a", "b", "c")

    def make(self) -> Dispatcher:
        return PartitionDispatcher(self.free)

    @rule(maxsize=st.integers(min_value=1, max_value=6), overflow=st.sampled_from(["drop_oldest", "drop_newest"]))
    def subscribe(self, maxsize, overflow):
        left = [name for name in self.free if name not in {one.partition for one in self.subscriptions}]
        if not left:
            return
        one = Subscription(maxsize=maxsize, overflow=overflow, partition=left[0], on_close=self.hub.leave)
        self.hub.join(one)
        self.subscriptions.append(one)
        self.promised[one], self.taken[one] = [], []

    @invariant()
    def a_partition_holds_its_own_guilds_only(self):
        for one in self.subscriptions:
            assert all(self.hub.dispatcher.by_guild(event) == one.partition for event in one.queue.queue)


PartitionDeliveryTest = PartitionDelivery.TestCase
DeliveryTest = Delivery.TestCase
DemandDeliveryTest = DemandDelivery.TestCase
for case in (DeliveryTest, DemandDeliveryTest, PartitionDeliveryTest):
    case.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
del case


# ------------------------------------------------------------------ dispatchers


def subscribed(hub: Hub, **options) -> Subscription:
    one = Subscription(on_room=hub.room_made, on_close=hub.leave, **options)
    hub.join(one)
    return one


def hub(dispatcher) -> tuple[Hub, list]:
    reports = []
    return Hub(dispatcher, lambda error, event, source: reports.append(error)), reports


def test_demand_goes_to_the_most_room_and_ties_in_turn():
    one, _ = hub(DemandDispatcher())
    a, b = subscribed(one, maxsize=10), subscribed(one, maxsize=10)
    one.publish([create(number) for number in range(10)], OpenGate())
    assert (a.waiting, b.waiting) == (5, 5)
    a.queue.take(5)
    one.publish([create(number) for number in range(10, 15)], OpenGate())
    assert (a.waiting, b.waiting) == (5, 5)


def test_partition_keeps_a_guild_together_and_discards():
    one, reports = hub(PartitionDispatcher(3, hash=lambda event: None if event.data["n"] == 4 else event.data["n"] % 3))
    parts = [subscribed(one, partition=number) for number in range(3)]
    one.publish([create(number) for number in range(9)], OpenGate())
    assert [numbers(part.queue.queue) for part in parts] == [[0, 3, 6], [1, 7], [2, 5, 8]]
    assert one.discarded == 1
    assert not reports


def test_partition_by_guild_is_stable():
    one, _ = hub(PartitionDispatcher(["a", "b"]))
    a, b = subscribed(one, partition="a"), subscribed(one, partition="b")
    one.publish([create(number, guild=number % 4) for number in range(40)], OpenGate())
    assert a.waiting == b.waiting == 20
    assert {event.guild_id for event in a.queue.queue}.isdisjoint({event.guild_id for event in b.queue.queue})


def test_partition_errors_are_clear_and_no_shard_dies():
    dispatcher = PartitionDispatcher(2, hash=lambda event: event.data["n"])
    one, reports = hub(dispatcher)
    part = subscribed(one, partition=0)
    one.publish([create(0), create(7), create(0)], OpenGate())
    assert part.waiting == 2
    assert "7, which is none of the partitions (0, 1)" in str(reports[0])
    for partition, says in ((5, "none of"), (0, "has a subscription already")):
        with pytest.raises(ConfigurationError, match=says):
            subscribed(one, partition=partition)
    with pytest.raises(ConfigurationError, match="needs a PartitionDispatcher"):
        subscribed(hub(BroadcastDispatcher())[0], partition=1)


def test_a_consumer_without_partition_gets_what_nobody_holds():
    one, _ = hub(PartitionDispatcher(2, hash=lambda event: event.data["n"] % 2))
    odd, rest = subscribed(one, partition=1), subscribed(one)
    one.publish([create(number) for number in range(4)], OpenGate())
    assert (numbers(odd.queue.queue), numbers(rest.queue.queue)) == ([1, 3], [0, 2])
    odd.close()
    one.publish([create(5)], OpenGate())
    assert numbers(rest.queue.queue) == [0, 2, 5]


def test_a_dispatcher_of_ones_own():
    class Loudest(Dispatcher):
        def deal(self, event, candidates):
            return (one for one in candidates if one.label == "loud")

    one, _ = hub(Loudest())
    loud, quiet = subscribed(one, label="loud"), subscribed(one)
    one.publish([create(1)], OpenGate())
    assert (loud.waiting, quiet.waiting) == (1, 0)


def test_a_selector_that_raises_is_reported_and_costs_only_its_own():
    one, reports = hub(BroadcastDispatcher())
    bad, good = subscribed(one, selector=lambda event: 1 / 0), subscribed(one)
    one.publish([create(1)], OpenGate())
    assert (bad.waiting, good.waiting) == (0, 1)
    assert isinstance(reports[0], ZeroDivisionError)


# ------------------------------------------------------------------ through a gateway


def flood(discord, count: int, guild: int = 1) -> None:
    for number in range(count):
        discord.dispatch("MESSAGE_CREATE", {"guild_id": str(guild << 22), "n": number})


@pytest.mark.discord(heartbeat_interval=0.3)
def test_block_stops_the_reading_and_nothing_else(discord, connect):
    gateway = connect(queue_size=100)
    subscription = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    assert discord.wait_ready()
    flood(discord, 20_000)
    assert eventually(lambda: gateway.shards[0].session.blocked)
    beats = discord.peers[0].beats
    assert discord.wait_for(lambda: discord.peers[0].beats > beats + 3)  # acks go unread: no zombie
    assert subscription.waiting <= 100 + 1
    got = [subscription.get(5).data["n"] for _ in range(20_000)]
    assert got == list(range(20_000))
    assert (discord.connections, gateway.shards[0].state) == (1, "ready")


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_drops_are_counted_and_logged(discord, connect, overflow, caplog):
    gateway = connect()
    subscription = gateway.subscribe("MESSAGE_CREATE", maxsize=10, overflow=overflow)
    gateway.start()
    assert discord.wait_ready()
    flood(discord, 100)
    assert eventually(lambda: subscription.dropped == 90)
    got = [event.data["n"] for event in subscription.get_many(100)]
    assert got == (list(range(90, 100)) if overflow == "drop_oldest" else list(range(10)))
    assert sum("events dropped" in record.getMessage() for record in caplog.records) == 1


def test_a_slow_consumer_does_not_starve_the_one_with_room(discord, connect):
    gateway = connect()
    slow = gateway.subscribe("MESSAGE_CREATE", maxsize=1)
    quick = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    assert discord.wait_ready()
    discord._dispatch([("MESSAGE_CREATE", {"guild_id": "1", "n": number}) for number in range(20)])
    assert eventually(lambda: quick.waiting >= 2)
    assert slow.waiting == 1
    slow.close()
    assert eventually(lambda: quick.waiting == 20)


def test_a_real_queue_for_a_pool(discord, connect):
    gateway = connect()
    jobs = gateway.subscribe("MESSAGE_CREATE").queue
    done = []

    def work():
        while (event := jobs.get()) is not CLOSED:
            done.append(event.data["n"])
            jobs.task_done()

    pool = [threading.Thread(target=work) for _ in range(4)]
    for thread in pool:
        thread.start()
    gateway.start()
    assert discord.wait_ready()
    flood(discord, 200)
    assert eventually(lambda: len(done) == 200)
    jobs.join()
    assert sorted(done) == list(range(200))
    gateway.close()
    for thread in pool:
        thread.join(5)
        assert not thread.is_alive()


def test_several_callbacks_once_removal_and_errors(discord, connect, log):
    gateway = connect()
    calls, errors = [], []

    class Group:
        @listens("MESSAGE_CREATE")
        def method(self, event):
            calls.append("method")

    @gateway.on("MESSAGE_CREATE")
    def first(event):
        calls.append("first")

    @gateway.once("MESSAGE_CREATE")
    def once(event):
        calls.append("once")

    @gateway.on("MESSAGE_CREATE")
    def broken(event):
        raise SystemExit("from a callback")

    @gateway.on_error
    def on_error(error, event, callback):
        errors.append((type(error), event.type, callback))
        raise ValueError("from on_error")

    group = Group()
    gateway.add_callbacks(group)
    gateway.on("MESSAGE_CREATE")(log)
    gateway.start()
    assert discord.wait_ready()
    flood(discord, 1)
    assert log.has("MESSAGE_CREATE")
    assert calls == ["first", "once", "method"]
    assert errors == [(SystemExit, "MESSAGE_CREATE", broken)]
    assert gateway.remove(first)
    assert gateway.remove(group.method)
    assert not gateway.remove(first)
    flood(discord, 1)
    assert log.has("MESSAGE_CREATE", 2)
    assert calls == ["first", "once", "method"]


def test_workers_keep_the_order_within_a_guild_and_share_the_rest(discord, connect):
    gateway = connect(workers=4)
    seen: dict[int, list[int]] = {}
    together = threading.Barrier(4)

    @gateway.on("MESSAGE_CREATE")
    def handle(event):
        if event.data["n"] == 0:
            together.wait(10)  # four guilds at a time, or this breaks
        seen.setdefault(event.guild_id, []).append(event.data["n"])

    gateway.start()
    assert discord.wait_ready()
    discord._dispatch(
        [("MESSAGE_CREATE", {"guild_id": str(guild << 22), "n": n}) for n in range(100) for guild in range(1, 5)]
    )
    assert eventually(lambda: sum(map(len, seen.values())) == 400)
    assert all(order == list(range(100)) for order in seen.values())


def test_poll_runs_callbacks_in_this_thread(discord, connect):
    gateway = connect(workers=0)
    threads = []
    gateway.on("MESSAGE_CREATE")(lambda event: threads.append(threading.current_thread()))
    gateway.start()
    assert discord.wait_ready()
    assert gateway.poll() == 0
    flood(discord, 5)
    assert eventually(lambda: gateway.shards[0].sequence == discord.sent and gateway.poll(max_events=2))
    while gateway.poll(1):
        pass
    assert threads == [threading.current_thread()] * 5


@pytest.mark.parametrize("dispatcher", ["broadcast", "demand", "partition"])
def test_waiting_takes_nothing_from_consumers(discord, connect, dispatcher):
    choice = {"demand": DemandDispatcher, "partition": PartitionDispatcher(2)}.get(dispatcher, BroadcastDispatcher)
    gateway = connect(dispatcher=choice)
    consumer = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    assert discord.wait_ready()
    threading.Timer(0.05, flood, (discord, 5)).start()
    event = gateway.wait_for("MESSAGE_CREATE", check=lambda event: event.data["n"] == 3, timeout=5)
    assert event.data["n"] == 3
    assert [consumer.get(5).data["n"] for _ in range(5)] == list(range(5))
    with pytest.raises(TimeoutError):
        gateway.wait_for("MESSAGE_CREATE", timeout=0.01)


@pytest.mark.parametrize("workers", [1, 3])
def test_callbacks_may_wait_behind_a_full_queue(discord, connect, workers):
    gateway = connect(workers=workers, queue_size=50)
    found = []

    @gateway.on("MESSAGE_CREATE")
    def handle(event):
        if event.data["n"] == 0:
            found.append(gateway.wait_for("TYPING_START", timeout=20).type)

    gateway.start()
    assert discord.wait_ready()
    flood(discord, 20_000)
    discord.dispatch("TYPING_START", {"guild_id": str(1 << 22)})
    assert eventually(lambda: found == ["TYPING_START"], 20)


def test_closing_ends_a_wait(discord, connect):
    gateway = connect()
    gateway.start()
    assert discord.wait_ready()
    threading.Timer(0.05, gateway.close).start()
    with pytest.raises(GatewayClosed):
        gateway.wait_for("MESSAGE_CREATE", timeout=10)


# ------------------------------------------------------------------ data


class Message(msgspec.Struct):
    n: int


@dataclasses.dataclass
class DataMessage:
    n: int


class DictMessage(TypedDict):
    n: int


@pytest.mark.parametrize("type", [Message, DataMessage, DictMessage])
def test_typed_views(discord, connect, log, type):
    gateway = connect()
    errors = []
    gateway.on_error(lambda error, event, source: errors.append(str(error)))
    gateway.on("MESSAGE_CREATE", type=type)(log)
    subscription = gateway.subscribe("MESSAGE_CREATE", type=type)
    gateway.start()
    assert discord.wait_ready()
    discord.dispatch("MESSAGE_CREATE", {"guild_id": "1", "n": "x"})
    discord.dispatch("MESSAGE_CREATE", {"guild_id": "1", "n": 7})
    for event in (subscription.get(5), *(log.events if log.has("MESSAGE_CREATE") else [])):
        assert (event.data["n"] if type is DictMessage else event.data.n) == 7
    assert len(errors) == 2
    assert all("$.n" in error for error in errors)


def test_data_is_decoded_once_whoever_asks():
    event = create(1)
    found = []
    threads = [threading.Thread(target=lambda: found.append(event.data)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(data) for data in found}) == 1
    assert repr(event) == f"<Event MESSAGE_CREATE #1 of shard 0, {event.size} bytes>"


def test_what_nobody_wants_becomes_no_event(discord, connect):
    gateway = connect()
    gateway.subscribe("TYPING_START")
    gateway.start()
    assert discord.wait_ready()
    flood(discord, 100)
    assert eventually(lambda: gateway.shards[0].sequence == discord.sent)
    assert gateway.shards[0].events <= 2  # none but the shard's own


def test_invalid_text_is_reported_when_decoded_and_the_session_goes_on(discord, connect, log):
    gateway = connect()
    errors = []
    gateway.on_error(lambda error, event, source: errors.append(error))
    gateway.on("MESSAGE_CREATE")(lambda event: log(event) if event.data else None)
    gateway.start()
    assert discord.wait_ready()
    discord.send(0, b'{"t":"MESSAGE_CREATE","s":9,"op":0,"d":{"content":"\xff"}}')
    assert eventually(lambda: len(errors) == 1)
    flood(discord, 1)
    assert log.has("MESSAGE_CREATE")
    assert discord.connections == 1


STOPPED_CONSUMER = """
    import sys
    from crux_sync import Gateway, Intents
    gateway = Gateway("test", api_url=sys.argv[1], intents=Intents.all())
    subscription = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    gateway.wait_for("SHARD_READY", timeout=10)
    print("ready", flush=True)
    sys.stdin.readline()
    numbers = [subscription.get(10).data["n"] for _ in range(int(sys.argv[2]))]
    print(numbers == list(range(len(numbers))), flush=True)
    gateway.close()
"""


@pytest.mark.discord(heartbeat_interval=1.0)
def test_a_consumer_that_stops_for_five_minutes_of_traffic(discord):
    count, memory = 5 * 60 * 200, re.compile(r"VmRSS:\s+(\d+) kB")
    command = [sys.executable, "-c", textwrap.dedent(STOPPED_CONSUMER), discord.api_url, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def resident() -> int:
            return int(memory.search(pathlib.Path(f"/proc/{process.pid}/status").read_text())[1])

        assert process.stdout.readline() == "ready\n"
        data = [("MESSAGE_CREATE", {"guild_id": "1", "n": n, "content": "x" * 600}) for n in range(count)]
        discord._dispatch(data[:12_000])
        peer = discord.peers[0]
        # The queue has filled when beats no longer name a newer sequence.
        assert discord.wait_for(lambda: peer.beats >= 2)
        before = resident()
        discord._dispatch(data[12_000:])
        beats = peer.beats
        assert discord.wait_for(lambda: peer.beats >= beats + 3)
        assert resident() - before < 20_000
        assert discord.peers == [peer]
        out, _ = process.communicate("go on\n", timeout=60)
    assert out == "True\n"
    assert discord.connections == 1
