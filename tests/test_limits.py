"""The budgets against brute force; identify buckets and the daily allowance on a made-up clock."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crux_sync.limits import (
    GUARD,
    IDENTIFY_PERIOD,
    PERMIT_DEADLINE,
    RESET_GUARD,
    SEND_PERIOD,
    SENDS,
    IdentifyLedger,
    LocalIdentifyLimiter,
    SendBudget,
    SlidingWindow,
)

gaps = st.lists(st.floats(min_value=0, max_value=20), max_size=60)


@given(gaps=gaps, limit=st.integers(min_value=1, max_value=8), period=st.floats(min_value=0.5, max_value=30))
def test_the_window_against_an_oracle(gaps, limit, period):
    """Never more than ``limit`` in any period, and never an avoidable wait."""
    window, now, sent = SlidingWindow(limit, period), 0.0, []
    for gap in gaps:
        now += gap
        delay = window.delay(now)
        allowed_now = sum(time + period > now for time in sent) < limit
        assert (delay == 0.0) is allowed_now
        if delay:
            just_before = now + delay - 1e-6 * max(now, 1)
            assert sum(time + period > just_before for time in sent) >= limit
        now += delay
        if window.delay(now):  # rounding
            now += 1e-9 * max(now, 1)
        window.record(now)
        sent.append(now)
        assert sum(time + period > now + 1e-6 * max(now, 1) for time in sent) <= limit


@settings(max_examples=60)
@given(
    interval=st.floats(min_value=5, max_value=60),
    offset=st.floats(min_value=0, max_value=1),
    requested=st.lists(st.floats(min_value=0, max_value=200), max_size=2),
)
def test_never_more_than_120_in_any_minute_with_commands_at_full_speed(interval, offset, requested):
    budget, sends = SendBudget(interval), []
    beats = [interval * (offset + number) for number in range(int(240 / interval) + 1)]
    priority = sorted([0.0, *beats, *requested])
    now = 0.0
    while now < 200 and len(sends) < 600:
        while priority and priority[0] <= now:
            sends.append(priority[0])
            budget.record_priority(priority.pop(0))
        delay = budget.delay(now)
        if delay == 0:
            budget.record_command(now)
            sends.append(now)
        else:
            now = min(now + delay, priority[0] if priority else 1e9) if priority else now + delay
    sends.sort()
    for index, start in enumerate(sends):
        assert sum(start <= time < start + SEND_PERIOD for time in sends[index:]) <= SENDS


def test_the_share_of_commands():
    assert SendBudget.commands_per_period(41.25) == 114
    budget = SendBudget(41.25)
    for _ in range(114):
        assert budget.delay(0.0) == 0.0
        budget.record_command(0.0)
    assert budget.delay(1.0) == pytest.approx(SEND_PERIOD + GUARD - 1.0)


def test_two_thousand_commands_take_no_longer_than_the_budget_asks():
    interval, now, sent, beats = 41.25, 0.0, 0, 0
    budget, times = SendBudget(interval), []
    budget.record_priority(0.0)  # identify
    while sent < 2000:
        while beats * interval <= now:
            budget.record_priority(beats * interval)
            times.append(beats * interval)
            beats += 1
        delay = budget.delay(now)
        if delay:
            now += delay
            continue
        budget.record_command(now)
        times.append(now)
        sent += 1
    share = SendBudget.commands_per_period(interval)
    assert now <= 1.03 * SEND_PERIOD * (-(-2000 // share) - 1)
    times.sort()
    assert all(later - earlier >= SEND_PERIOD for earlier, later in zip(times, times[SENDS:], strict=False))


# ------------------------------------------------------------------ the daily allowance


@pytest.mark.parametrize("shards", [1, 16, 100])
@pytest.mark.parametrize("remaining", [1000, 120])
def test_a_day_of_wanting_to_identify_all_the_time_never_spends_it_all(shards, remaining):
    ledger, now, spent = IdentifyLedger(1000, remaining, 86_400.0, 0.0, planned=shards), 0.0, 0
    while now < 86_400:
        delay = ledger.delay(now)
        if delay:
            now += delay
            continue
        ledger.record(now)
        spent += 1
        now += IDENTIFY_PERIOD / shards
    assert shards <= spent < remaining
    assert spent > remaining * 0.9  # and does not hold back more than it must


def test_a_new_window_starts_afresh():
    ledger = IdentifyLedger(1000, 1, 50.0, 0.0)
    assert ledger.delay(10.0) == 40.0 + RESET_GUARD
    assert ledger.delay(50.0 + RESET_GUARD) == 0.0
    assert ledger.remaining == 1000


# ------------------------------------------------------------------ buckets


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def granted(ticket) -> bool:
    return ticket.wait(threading.Event(), timeout=0)


def test_one_bucket_one_identify_in_five_seconds_in_order():
    clock = Clock()
    limiter = LocalIdentifyLimiter(1, clock=clock)
    first, second, third = (limiter.enqueue(shard_id) for shard_id in range(3))
    assert not granted(second)
    assert granted(first)
    first.sent()
    assert not granted(second)
    clock.now += 10  # not until the first has its answer
    assert not granted(second)
    first.release()
    assert granted(second)
    second.sent()
    second.release()
    clock.now += IDENTIFY_PERIOD - 0.01
    assert not granted(third)
    clock.now += 0.01 + GUARD
    assert granted(third)


def test_buckets_are_apart():
    limiter = LocalIdentifyLimiter(16, clock=Clock())
    tickets = [limiter.enqueue(shard_id) for shard_id in range(32)]
    assert [granted(ticket) for ticket in tickets] == [True] * 16 + [False] * 16


def test_a_ticket_given_back_unused_frees_the_bucket_at_once():
    limiter = LocalIdentifyLimiter(1, clock=Clock())
    first, second = limiter.enqueue(0), limiter.enqueue(1)
    assert granted(first)
    first.release()
    first.release()
    assert granted(second)


def test_a_lost_holder_blocks_nobody_for_ever():
    clock = Clock()
    limiter = LocalIdentifyLimiter(1, clock=clock)
    first, second = limiter.enqueue(0), limiter.enqueue(1)
    assert granted(first)
    clock.now += PERMIT_DEADLINE
    assert granted(second)
    first.release()


def test_waiting_ends_when_cancelled():
    limiter = LocalIdentifyLimiter(1)
    assert granted(limiter.enqueue(0))
    ticket, flag, answers = limiter.enqueue(1), threading.Event(), []
    thread = threading.Thread(target=lambda: answers.append(ticket.wait(flag)))
    thread.start()
    flag.set()
    ticket.cancel()
    thread.join(5)
    assert answers == [False]


def test_the_ledger_holds_back_every_bucket():
    clock = Clock()
    limiter = LocalIdentifyLimiter(2, clock=clock, ledger=IdentifyLedger(1000, 1, 60.0, clock.now))
    ticket = limiter.enqueue(0)
    assert not granted(ticket)
    clock.now += 60 + RESET_GUARD
    assert granted(ticket)
    assert limiter.ledger.remaining == 999
    ticket.release()  # never sent
    assert limiter.ledger.remaining == 1000


def test_two_buckets_cannot_both_spend_the_last_one():
    clock = Clock()
    ledger = IdentifyLedger(1000, 1, 60.0, clock.now, planned=2)
    limiter = LocalIdentifyLimiter(2, clock=clock, ledger=ledger)
    assert [granted(limiter.enqueue(shard_id)) for shard_id in range(2)] == [True, False]
