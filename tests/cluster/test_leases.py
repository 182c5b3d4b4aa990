"""Leases over a real Redis: one holder at a time, which stops before another may start."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from crux_sync.cluster.client import connect
from crux_sync.cluster.leases import Lease, share


def lease(client, keys, owner: str, **options) -> Lease:
    return Lease(client, keys.shard(0), keys.tokens, owner, **{"duration": 0.8, "margin": 0.3} | options)


def test_one_holder_at_a_time(client, keys):
    ours, theirs = lease(client, keys, "a"), lease(client, keys, "b")
    assert ours.acquire()
    assert not theirs.acquire()
    assert (ours.valid, theirs.valid) == (True, False)
    ours.release()
    assert not ours.valid
    assert theirs.acquire()
    assert theirs.token > ours.token


def test_its_holder_has_stopped_before_another_may_start(client, keys):
    ours, theirs = lease(client, keys, "a"), lease(client, keys, "b")
    assert ours.acquire()
    stopped = None
    while not theirs.acquire():
        if stopped is None and not ours.valid:
            stopped = time.monotonic()
    assert stopped is not None
    assert time.monotonic() - stopped > 0.2


def test_renewing_keeps_it(client, keys):
    ours, theirs = lease(client, keys, "a"), lease(client, keys, "b")
    ours.acquire()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert ours.renew()
        assert not theirs.acquire()
        threading.Event().wait(0.1)


def test_one_that_is_over_cannot_be_renewed(client, keys):
    clock = [0.0]
    ours = lease(client, keys, "a", clock=lambda: clock[0])
    ours.acquire()
    clock[0] = 0.51  # Redis would still have it for us
    assert not ours.valid
    assert not ours.renew()


def test_one_that_somebody_else_has_got_is_lost(client, keys):
    ours = lease(client, keys, "a", duration=60, margin=1)
    ours.acquire()
    client.delete(keys.shard(0))
    theirs = lease(client, keys, "b")
    assert theirs.acquire()
    assert not ours.renew()
    assert not ours.valid
    ours.release()
    assert not lease(client, keys, "c").acquire(), "a release took the new holder's lease"


def test_a_stopped_process_finds_it_over_when_it_goes_on(client, keys, shared_server):
    name = keys.prefix.split("{")[1].split("}")[0]
    program = f"""
import sys
from crux_sync.cluster.client import connect
from crux_sync.cluster.keys import Keys
from crux_sync.cluster.leases import Lease
keys = Keys({name!r})
lease = Lease(connect({shared_server.url!r}), keys.shard(0), keys.tokens, "a", duration=0.8, margin=0.3)
print(lease.acquire(), flush=True)
sys.stdin.readline()
print(lease.valid, lease.renew(), flush=True)
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True)
    try:
        assert holder.stdout.readline() == "True\n"
        os.kill(holder.pid, signal.SIGSTOP)
        theirs = lease(client, keys, "b", duration=30)
        while not theirs.acquire():
            threading.Event().wait(0.02)
        os.kill(holder.pid, signal.SIGCONT)
        assert holder.communicate("\n")[0] == "False False\n"
    finally:
        holder.kill()
        holder.wait()


def test_redis_away_leaves_it_to_run_out(server, keys):
    with connect(server.url) as client:
        ours = lease(client, keys, "a")
        ours.acquire()
        server.kill()
        with pytest.raises(Exception, match=r"refused|closed"):
            ours.renew()
        assert ours.valid
        while ours.valid:
            threading.Event().wait(0.02)


@pytest.mark.parametrize(("members", "total"), [(1, 8), (3, 8), (8, 8), (5, 3), (7, 100)])
def test_things_are_spread_evenly(members, total):
    names = [f"m{number}" for number in range(members)]
    shares = [share(names, name, total) for name in names]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
    assert share(names, "stranger", total) == 0
