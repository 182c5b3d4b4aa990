"""Identify buckets and the daily budget over a real Redis, for threads and for processes."""

import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest

from crux_sync.cluster.client import connect
from crux_sync.cluster.limiter import GONE_AFTER, RedisIdentifyLimiter

NEVER = threading.Event()


def test_one_at_a_time_and_a_period_apart(client, keys):
    limiter = RedisIdentifyLimiter(client, keys, 1, period=0.3)
    times = []
    for shard_id in range(4):
        ticket = limiter.enqueue(shard_id)
        assert ticket.wait(NEVER, 5)
        ticket.sent()
        times.append(time.monotonic())
        ticket.release()
    assert min(after - before for before, after in pairwise(times)) >= 0.3


def test_buckets_do_not_wait_for_each_other(client, keys):
    limiter = RedisIdentifyLimiter(client, keys, 4, period=60)
    for shard_id in range(4):
        ticket = limiter.enqueue(shard_id)
        assert ticket.wait(NEVER, 1)
        ticket.sent()
    assert not limiter.enqueue(4).wait(NEVER, 0.2)


def test_in_order_of_asking(client, keys):
    limiter = RedisIdentifyLimiter(client, keys, 1, period=0.02)
    first = limiter.enqueue(0)
    assert first.wait(NEVER, 1)
    order, threads = [], []

    def ask(number: int) -> None:
        ticket = limiter.enqueue(0)
        assert ticket.wait(NEVER, 20)
        order.append(number)
        ticket.sent()
        ticket.release()

    for number in range(5):
        thread = threading.Thread(target=ask, args=(number,))
        thread.start()
        threads.append(thread)
        until(lambda number=number: client.zcard(keys.waiting(0)) == number + 1)
    first.sent()
    first.release()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_permit_not_used_is_given_back_with_its_identify(client, keys):
    limiter = RedisIdentifyLimiter(client, keys, 1)
    limiter.renew(1000, 500, 3600)
    ticket = limiter.enqueue(0)
    assert ticket.wait(NEVER, 1)
    assert int(client.hget(keys.ledger, "remaining")) == 499
    ticket.release()
    assert int(client.hget(keys.ledger, "remaining")) == 500
    assert limiter.enqueue(0).wait(NEVER, 1)


def test_a_ticket_that_is_cancelled_leaves_the_queue(client, keys):
    limiter = RedisIdentifyLimiter(client, keys, 1)
    assert limiter.enqueue(0).wait(NEVER, 1)
    ticket, cancelled = limiter.enqueue(0), threading.Event()
    thread = threading.Thread(target=ticket.wait, args=(cancelled,))
    thread.start()
    until(lambda: client.zcard(keys.waiting(0)) == 1)
    cancelled.set()
    ticket.cancel()
    thread.join(2)
    assert not thread.is_alive()
    ticket.release()
    assert client.zcard(keys.waiting(0)) == 0


@pytest.mark.parametrize("remaining", [1, 0])
def test_the_last_identify_of_the_day_is_never_granted(client, keys, remaining):
    limiter = RedisIdentifyLimiter(client, keys, 1)
    limiter.renew(1000, remaining, 3600)
    assert not limiter.enqueue(0).wait(NEVER, 0.2)


def test_the_second_half_of_the_budget_is_spread_over_the_day(client, keys):
    limiter = RedisIdentifyLimiter(client, keys, 16, period=0)
    limiter.renew(1000, 10, 3600)
    granted = 0
    for shard_id in range(16):
        ticket = limiter.enqueue(shard_id)
        granted += ticket.wait(NEVER, 0.05)
        ticket.sent()
    assert granted in (5, 6)


def test_what_discord_says_never_raises_what_is_left_within_a_window(client, keys):
    limiter = RedisIdentifyLimiter(client, keys, 1)
    assert limiter.renew(1000, 100, 3600) == 100
    assert limiter.renew(1000, 400, 3600) == 100
    assert limiter.renew(1000, 50, 3600) == 50


def test_a_process_that_dies_in_the_queue_is_passed_over(client, keys, shared_server):
    limiter = RedisIdentifyLimiter(client, keys, 1, period=0.05)
    first = limiter.enqueue(0)
    assert first.wait(NEVER, 1)
    name = keys.prefix.split("{")[1].split("}")[0]
    program = f"""
import threading
from crux_sync.cluster.client import connect
from crux_sync.cluster.keys import Keys
from crux_sync.cluster.limiter import RedisIdentifyLimiter
RedisIdentifyLimiter(connect({shared_server.url!r}), Keys({name!r})).enqueue(0).wait(threading.Event())
"""
    dying = subprocess.Popen([sys.executable, "-c", program])
    until(lambda: client.zcard(keys.waiting(0)) == 1)
    dying.kill()
    dying.wait()
    first.sent()
    first.release()
    began = time.monotonic()
    assert limiter.enqueue(0).wait(NEVER, GONE_AFTER + 5)
    assert time.monotonic() - began < GONE_AFTER + 2


def test_processes_share_the_buckets(client, keys, shared_server):
    name = keys.prefix.split("{")[1].split("}")[0]
    program = f"""
import threading, time
from crux_sync.cluster.client import connect
from crux_sync.cluster.keys import Keys
from crux_sync.cluster.limiter import RedisIdentifyLimiter
limiter = RedisIdentifyLimiter(connect({shared_server.url!r}), Keys({name!r}), 2, period=0.2)
for shard_id in (0, 1, 2, 3):
    ticket = limiter.enqueue(shard_id)
    assert ticket.wait(threading.Event(), 30)
    ticket.sent()
    print(shard_id % 2, time.monotonic(), flush=True)
    ticket.release()
"""
    command = [sys.executable, "-c", program]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lines = [line.split() for process in running for line in process.communicate()[0].splitlines()]
    assert len(lines) == 12
    for bucket in ("0", "1"):
        times = sorted(float(when) for which, when in lines if which == bucket)
        assert min(after - before for before, after in pairwise(times)) >= 0.19


def test_redis_away_is_waited_out(server, keys):
    with connect(server.url) as client:
        limiter = RedisIdentifyLimiter(client, keys, 1)
        server.kill()
        results = []
        ticket = limiter.enqueue(0)
        thread = threading.Thread(target=lambda: results.append(ticket.wait(NEVER)))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        server.start()
        thread.join(10)
        assert results == [True]


def until(condition, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
