"""Workers of a cluster over a real Redis; the events come from a simulator, or are put into the streams."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import msgspec
import pytest
from cluster_tools import GUILD, PARTITIONS, until

from crux_sync import Intents
from crux_sync.cluster import ClusterGateway, Poison, Worker
from crux_sync.cluster.config import agree
from crux_sync.cluster.keys import GROUP, partition_of
from crux_sync.cluster.leases import Lease
from crux_sync.cluster.partitions import Partition, Streams

FAST = {"lease": 2.0, "margin": 1.0}


@pytest.fixture
def name(keys):
    return keys.prefix.split("{")[1].split("}")[0]


@pytest.fixture
def put(client, keys):
    """Put an event into its stream, as a gateway does."""
    agree(client, keys, partitions=PARTITIONS)
    numbers = Counter()

    def put(guild_id: int, **data) -> None:
        numbers[0] += 1
        text = msgspec.json.encode({"guild_id": str(guild_id), **data})
        stream = keys.events(partition_of(guild_id, 0, PARTITIONS))
        client.xadd(stream, {"t": "TYPING_START", "s": numbers[0], "h": 0, "n": 1, "i": "s", "d": text})

    return put


@pytest.fixture
def workers(shared_server, name):
    """Makes workers, and closes them."""
    made: list[Worker] = []

    def make(**options) -> Worker:
        made.append(Worker(shared_server.url, name=name, **FAST | options))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def unread(client, keys) -> int:
    return sum(client.xlen(keys.events(number)) for number in range(PARTITIONS))


def test_events_reach_callbacks_in_order_and_are_removed(workers, put, client, keys):
    worker, seen = workers(), []

    @worker.on("TYPING_START")
    def note(event):
        seen.append((event.data["guild_id"], event.data["number"], event.sequence, event.shard_id))

    for number in range(300):
        put(number % 7, number=number)
    worker.start()
    until(lambda: len(seen) == 300)
    for guild in range(7):
        assert [number for one, number, *_ in seen if one == str(guild)] == list(range(guild, 300, 7))
    assert all(sequence == number + 1 for _, number, sequence, _ in seen)
    until(lambda: unread(client, keys) == 0)


def test_partitions_are_spread_and_given_back(workers, put):
    first = workers()
    first.start()
    until(lambda: len(first.partitions) == PARTITIONS)
    second = workers()
    second.start()
    until(lambda: (len(first.partitions), len(second.partitions)) == (2, 2))
    assert not set(first.partitions) & set(second.partitions)
    first.close()
    until(lambda: len(second.partitions) == PARTITIONS)


def test_a_callback_that_raises_is_reported_and_the_event_is_done(workers, put, client, keys):
    worker, errors = workers(), []
    worker.on_error(lambda error, event, callback: errors.append((str(error), event.data["number"])))

    @worker.on()
    def fail(event):
        raise ValueError("no")

    put(1, number=5)
    worker.start()
    until(lambda: errors == [("no", 5)])
    until(lambda: unread(client, keys) == 0)


def test_typed_and_once(workers, put):
    class Typing(msgspec.Struct):
        number: int

    worker, typed, once = workers(), [], []
    worker.on("TYPING_START", type=Typing)(lambda event: typed.append(event.data.number))
    worker.once("TYPING_START")(lambda event: once.append(event.sequence))
    for number in range(3):
        put(1, number=number)
    worker.start()
    until(lambda: len(typed) == 3)
    assert (typed, once) == ([0, 1, 2], [1])


PROGRAM = """
import os, sys
from crux_sync.cluster import Worker
worker = Worker(sys.argv[1], name=sys.argv[2], lease=2.0, margin=1.0)
@worker.on("TYPING_START")
def handle(event):
    number = event.data["number"]
    if number == int(sys.argv[3]):
        os._exit(1)
    print(number, flush=True)
worker.run()
"""


def process(url: str, name: str, poison: int = -1) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, url, name, str(poison)], stdout=-1, text=True)


def test_what_a_dead_worker_had_begun_is_taken_over(workers, put, shared_server, name, client, keys):
    for number in range(100):
        put(1, number=number)
    dying = process(shared_server.url, name, poison=50)
    printed = [int(line) for line in dying.communicate()[0].splitlines()]
    assert printed == list(range(50))
    worker, seen = workers(), []
    worker.on("TYPING_START")(lambda event: seen.append(event.data["number"]))
    worker.start()
    until(lambda: seen and seen[-1] == 99)
    assert set(seen) >= set(range(50, 100))
    assert seen == sorted(seen)


def test_poison_is_set_aside_after_three_tries_and_the_rest_goes_on(put, shared_server, name, client, keys):
    for number in range(10):
        put(1, number=number)
    seen: list[int] = []
    for _ in range(3):
        seen += map(int, process(shared_server.url, name, poison=5).communicate()[0].splitlines())
    last = process(shared_server.url, name, poison=5)
    try:
        while 9 not in seen:
            seen.append(int(last.stdout.readline()))
    finally:
        last.terminate()
        last.communicate()
    assert set(seen) == set(range(10)) - {5}
    poison = Poison(shared_server.url, name=name)
    ((number, tries, partition, event),) = poison.list()
    assert (tries, partition, event.data["number"]) == (3, partition_of(1, 0, PARTITIONS), 5)
    assert poison.retry(number)
    assert poison.list() == []
    assert unread(client, keys) == 1
    assert not poison.drop(number)
    poison.close()


def test_a_stopped_worker_takes_and_acknowledges_nothing_when_it_goes_on(
    workers, put, shared_server, name, client, keys
):
    first = process(shared_server.url, name)
    try:
        put(1, number=0)
        assert first.stdout.readline() == "0\n"
        until(lambda: unread(client, keys) == 0)
        os.kill(first.pid, signal.SIGSTOP)
        second, seen = workers(), []
        second.on("TYPING_START")(lambda event: seen.append(event.data["number"]))
        second.start()
        until(lambda: len(second.partitions) == PARTITIONS)
        os.kill(first.pid, signal.SIGCONT)
        for number in range(1, 50):
            put(number, number=number)
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.extend(first.stdout))
        reader.start()
        until(lambda: len(seen) + len(printed) >= 49)
        assert len(set(seen) | {int(line) for line in printed}) == 49
        assert not set(seen) & {int(line) for line in printed}
    finally:
        first.kill()
        first.wait()
        reader.join()
        first.stdout.close()


def test_redis_killed_and_started_again(server):
    from crux_sync.cluster.client import connect
    from crux_sync.cluster.keys import Keys

    keys = Keys("bot")
    with connect(server.url) as client, Worker(server.url, **FAST) as worker:
        seen = []
        worker.on("TYPING_START")(lambda event: seen.append(event.sequence))
        agree(client, keys, partitions=1)

        def put(number: int) -> None:
            client.xadd(keys.events(0), {"t": "TYPING_START", "s": number, "h": 0, "n": 1, "i": "s", "d": b"{}"})

        put(1)
        until(lambda: seen == [1])
        server.kill()
        threading.Event().wait(0.5)
        server.start()
        put(2)
        until(lambda: seen == [1, 2])


@pytest.mark.discord(shards=2, max_concurrency=2)
def test_from_discord_to_workers(discord, workers, shared_server, name):
    handled: Counter[tuple[int, int]] = Counter()
    order: dict[str, list[int]] = {}
    lock = threading.Lock()

    def note(event) -> None:
        with lock:
            handled[event.shard_id, event.sequence] += 1
            if event.type == "TYPING_START":
                order.setdefault(event.data["guild_id"], []).append(event.data["number"])

    for _ in range(2):
        worker = workers()
        worker.on()(note)
        worker.start()
    gateway = ClusterGateway(
        "test", redis=shared_server.url, name=name, api_url=discord.api_url, intents=Intents.all(), **FAST
    )
    with gateway:
        discord.wait_ready()
        for number in range(400):
            discord.dispatch("TYPING_START", {"guild_id": str(int(GUILD) + (number % 5 << 22)), "number": number})
            if number == 200:
                discord.drop(0)
        until(lambda: len(handled) == discord.sent)
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert handled.total() == discord.sent
    assert len(discord.identifies) == 2


def test_it_ends_quickly(workers):
    worker = workers()
    worker.start()
    began = time.monotonic()
    worker.close()
    assert time.monotonic() - began < 2
    worker.join(0)


def test_without_the_lease_redis_gives_nothing(put, client, keys):
    """A process that was stopped may believe in its lease for one command more."""
    lease = Lease(client, keys.partition(0), keys.tokens, "one")
    assert lease.acquire()
    stream = keys.events(0)
    streams = Streams(client, keys, "one", 3)
    streams.create_group(stream)
    client.xadd(stream, {"t": "TYPING_START", "s": 1, "h": 0, "n": 1, "i": "s", "d": b"{}"})
    client.hset(lease.key, "token", lease.token + 1)
    partition = Partition(0, lease, stream)
    ((_, entries),) = streams.turn([partition])
    assert entries == []
    assert partition.leaving
    assert client.xpending(stream, GROUP)["pending"] == 0
    client.hset(lease.key, "token", lease.token)
    ((_, entries),) = streams.turn([Partition(0, lease, stream)])
    assert [event.type for _, event in entries] == ["TYPING_START"]


def test_what_is_put_back_is_as_it_was(client, keys, shared_server, name):
    event = {b"t": b"TYPING_START", b"s": b"7", b"h": b"0", b"n": b"1", b"i": b"s", b"d": b"{}"}
    number = client.xadd(keys.poison, {"partition": 2, "entry": "1-1", "tries": 3, **event})
    poison = Poison(shared_server.url, name=name)
    try:
        assert poison.retry(number.decode())
        assert not poison.retry(number.decode())
    finally:
        poison.close()
    assert [fields for _, fields in client.xrange(keys.events(2))] == [event]
    assert client.xlen(keys.poison) == 0
