"""The session's table of (state, input), with a fake clock and no randomness."""

import pytest

from crux_sync import errors
from crux_sync.actions import (
    Dial,
    Disconnect,
    Emit,
    Fail,
    Redial,
    SendHeartbeat,
    SendIdentify,
    SendResume,
    State,
)
from crux_sync.close_codes import CLOSE_POLICY, Outcome
from crux_sync.session import BACKOFF_CAP, HELLO_DEADLINE, IDENTIFY_BACKOFF_CAP, READY_DEADLINE, Session
from crux_sync.sessions import StoredSession

HELLO, HEARTBEAT, RECONNECT, INVALID, ACK = 10, 1, 7, 9, 11
INTERVAL = 40.0
READY = {"session_id": "abc", "resume_gateway_url": "wss://resume.test", "guilds": [{"id": "1"}], "user": {"id": "9"}}


def high(low, high):
    return high


def new_session(**values) -> Session:
    return Session(shard_id=0, shard_count=1, uniform=high, **values)


def opened(session: Session, now: float = 0.0) -> Session:
    session.opened(now)
    session.receive(HELLO, {"heartbeat_interval": INTERVAL * 1000}, now)
    return session


def ready(now: float = 0.0, **values) -> Session:
    session = opened(new_session(**values), now)
    session.receive(0, READY, now, "READY", 1)
    return session


def resuming(now: float = 100.0) -> Session:
    session = ready()
    session.lost(None, "", now)
    return opened(session, now)


def kinds(actions):
    return [type(action) for action in actions]


def redial(actions) -> Redial:
    return next(action for action in actions if isinstance(action, Redial))


def test_hello_identifies_and_starts_the_beats():
    session = new_session()
    session.opened(5.0)
    assert session.state == "connecting"
    actions = session.receive(HELLO, {"heartbeat_interval": 40000}, 6.0)
    assert kinds(actions) == [Emit, SendIdentify]
    assert session.state == "identifying"
    assert session.link.next_beat == 46.0  # jitter of 1: the last moment


@pytest.mark.parametrize("jitter", [0.0, 0.25])
def test_first_heartbeat_is_jittered(jitter):
    session = Session(0, 1, uniform=lambda low, high: low + (high - low) * jitter)
    assert opened(session).link.next_beat == INTERVAL * jitter


def test_ready_and_resumed():
    session = ready()
    assert (session.state, session.session_id, session.resume_url, session.sequence) == (
        "ready",
        "abc",
        "wss://resume.test",
        1,
    )
    session.sequence = 7
    session.lost(None, "", 10.0)
    assert session.next_dial() == Dial("wss://resume.test", True)
    session.opened(11.0)
    assert kinds(session.receive(HELLO, {"heartbeat_interval": 1000}, 11.0)) == [Emit, SendResume]
    assert session.state == "resuming"
    (emit,) = session.receive(0, {}, 12.0, "RESUMED", 9)
    assert emit.type == "SHARD_RESUMED"
    assert (session.state, session.sequence, session.failures) == ("ready", 9, 0)


@pytest.mark.parametrize(
    "data", [None, [], {}, {"heartbeat_interval": "x"}, {"heartbeat_interval": 0}, {"heartbeat_interval": True}]
)
def test_a_hello_without_interval(data):
    session = new_session()
    session.opened(0.0)
    assert kinds(session.receive(HELLO, data, 0.0)) == [Disconnect]


@pytest.mark.parametrize("data", [None, [], {}, {"session_id": 5}, {"session_id": ""}])
def test_a_ready_without_session(data):
    session = opened(new_session())
    assert kinds(session.receive(0, data, 1.0, "READY", 1)) == [Disconnect]
    assert redial(session.lost(None, "", 1.0)).delay > 0
    assert not session.can_resume


# ------------------------------------------------------------------ heartbeats


def test_beats_and_acks():
    session = ready()
    assert session.tick(39.9) == []
    assert session.tick(40.0) == [SendHeartbeat(1)]
    session.receive(ACK, None, 40.05)
    assert session.latency == pytest.approx(0.05)
    session.sequence = 12
    assert session.tick(80.0) == [SendHeartbeat(12)]


def test_the_first_beat_before_any_event_has_no_sequence():
    assert opened(new_session()).tick(INTERVAL) == [SendHeartbeat(None)]


def test_a_silent_peer_is_a_zombie_at_the_next_beat():
    session = ready()
    session.tick(40.0)
    (action,) = session.tick(80.0)
    assert action == Disconnect(4000, "heartbeat not acknowledged", drop=True)
    assert redial(session.lost(None, "", 80.0)).delay > 0
    assert session.next_dial().resume


def test_any_payload_counts_as_life_but_not_for_ever():
    session = ready()
    for beat in range(1, 4):
        now = beat * INTERVAL
        assert session.tick(now) == [SendHeartbeat(1)], beat
        session.link.last_received = now + 1
    assert kinds(session.tick(4 * INTERVAL)) == [Disconnect]


def test_while_blocked_a_missing_ack_means_nothing():
    session = ready()
    session.blocked = True
    for beat in range(1, 20):
        assert session.tick(beat * INTERVAL) == [SendHeartbeat(1)]
    session.unblocked(19 * INTERVAL)
    assert kinds(session.tick(20 * INTERVAL)) == [SendHeartbeat]
    assert kinds(session.tick(21 * INTERVAL)) == [Disconnect]


def test_a_requested_beat_is_sent_at_once_and_demands_no_ack():
    session = ready()
    assert session.receive(HEARTBEAT, None, 10.0) == [SendHeartbeat(1)]
    assert session.link.unanswered == 0
    assert session.link.next_beat == INTERVAL


def test_a_late_timer_does_not_shift_the_series_nor_burst():
    session = ready()
    session.tick(40.5)
    assert session.link.next_beat == 80.0
    session.receive(ACK, None, 41.0)
    session.tick(500.0)
    assert session.link.next_beat == 500.0


def test_beats_carry_the_handled_sequence_when_asked():
    session = ready(beats_carry_handled=True)
    session.sequence, session.handled = 90, 70
    assert session.tick(40.0) == [SendHeartbeat(70)]


def test_nothing_of_the_old_connection_survives_it():
    session = ready()
    session.tick(40.0)
    session.lost(None, "", 41.0)
    assert session.tick(80.0) == []
    assert session.next_deadline() is None
    opened(session, 100.0)
    assert session.link.unanswered == 0
    assert session.tick(120.0) == []


# ------------------------------------------------------------------ deadlines


def test_deadlines():
    session = new_session()
    session.opened(0.0)
    assert session.tick(HELLO_DEADLINE - 0.1) == []
    assert kinds(session.tick(HELLO_DEADLINE)) == [Disconnect]
    session = opened(new_session())
    session.link.next_beat = 1e9
    assert session.tick(READY_DEADLINE - 0.1) == []
    assert kinds(session.tick(READY_DEADLINE)) == [Disconnect]


def test_a_long_replay_is_left_alone_while_it_gets_on():
    session = resuming(100.0)
    session.link.next_beat = 1e9
    session.sequence = 50
    assert session.tick(100.0 + READY_DEADLINE) == []
    assert kinds(session.tick(100.0 + 2 * READY_DEADLINE)) == [Disconnect]


def test_a_blocked_session_has_no_deadline_to_wake_for():
    session = opened(new_session())
    session.blocked = True
    assert session.next_deadline() == session.link.next_beat


# ------------------------------------------------------------------ op 7 and op 9


@pytest.mark.parametrize("make", [ready, resuming])
def test_reconnect_resumes_at_once(make):
    session = make()
    assert kinds(session.receive(RECONNECT, None, 200.0)) == [Disconnect]
    assert redial(session.lost(None, "", 200.0)).delay <= 0.01
    assert session.next_dial().resume


def test_reconnect_before_hello_and_while_identifying():
    session = new_session()
    session.opened(0.0)
    assert kinds(session.receive(RECONNECT, None, 0.0)) == [Disconnect]
    session.lost(None, "", 0.0)
    assert session.next_dial() == Dial(None, False)
    opened(session, 1.0)
    assert kinds(session.receive(RECONNECT, None, 1.0)) == [Disconnect]


def test_a_server_that_says_nothing_but_reconnect_is_met_with_backoff():
    session = ready()
    delays = []
    for _ in range(6):
        session.receive(RECONNECT, None, 0.0)
        delays.append(redial(session.lost(None, "", 0.0)).delay)
        opened(session, 0.0)
    assert delays[0] <= 0.01
    assert delays[-1] > 4


@pytest.mark.parametrize("make", [ready, resuming])
@pytest.mark.parametrize("data", [True, False, None, "true", 1])
def test_invalid_session(make, data):
    session = make()
    (action,) = session.receive(INVALID, data, 10.0)
    delay = redial(session.lost(None, "", 10.0)).delay
    assert 1.0 <= delay <= 5.0
    if data is True:
        assert action.code == 4000
        assert session.next_dial().resume
    else:
        assert action.code == 1000
        assert session.next_dial() == Dial(None, False)


def test_invalid_session_in_answer_to_identify_backs_off_more_and_more():
    session = new_session()
    delays = []
    for _ in range(12):
        opened(session)
        session.receive(INVALID, False, 0.0)
        delays.append(redial(session.lost(None, "", 0.0)).delay)
    assert delays[0] == 5.0
    assert delays[-1] == IDENTIFY_BACKOFF_CAP


# ------------------------------------------------------------------ closes


@pytest.mark.parametrize("code", [*CLOSE_POLICY, 4242, 3000])
def test_close_codes_by_table(code):
    session = ready()
    actions = session.lost(code, "text", 10.0)
    policy = CLOSE_POLICY.get(code)
    if policy is not None and policy.outcome is Outcome.FATAL:
        assert kinds(actions) == [Emit, Fail]
        assert isinstance(actions[1].error, policy.error)
        assert (actions[1].error.code, actions[1].error.reason, actions[1].error.shard_id) == (code, "text", 0)
        assert session.state == "failed"
        return
    assert kinds(actions) == [Emit, Redial]
    assert actions[0].data["code"] == code
    identify = policy is not None and policy.outcome is Outcome.IDENTIFY
    assert session.next_dial().resume is not identify
    assert actions[0].data["will_resume"] is not identify


@pytest.mark.parametrize("code", [1000, 4242])
def test_resume_once_then_identify(code):
    session = ready()
    session.lost(code, "", 10.0)
    assert session.next_dial().resume
    opened(session, 11.0)
    session.lost(code, "", 12.0)
    assert not session.next_dial().resume


def test_a_fatal_code_beats_what_we_were_about_to_do():
    session = ready()
    session.receive(RECONNECT, None, 1.0)
    actions = session.lost(4004, "Authentication failed.", 1.0)
    assert isinstance(actions[1].error, errors.AuthenticationFailed)


def test_rate_limited_waits_longer():
    session = ready()
    assert redial(session.lost(4008, "", 100.0)).delay >= 5.0
    assert session.next_dial().resume


# ------------------------------------------------------------------ resumes and dials


def test_three_resumes_without_resumed_end_the_session():
    session = ready()
    session.lost(None, "", 1.0)
    for _ in range(3):
        assert session.next_dial().resume
        opened(session, 2.0)
        session.lost(None, "", 3.0)
    assert session.next_dial() == Dial(None, False)


def test_a_replay_that_gets_somewhere_is_no_failed_resume():
    session = ready()
    session.lost(None, "", 1.0)
    for attempt in range(10):
        opened(session, 2.0)
        session.sequence += 5
        session.lost(None, "", 3.0)
        assert session.next_dial().resume, attempt


def test_failed_dials_never_cost_a_session_and_try_both_urls():
    session = ready()
    session.lost(None, "", 1.0)
    urls = []
    for _ in range(40):
        dial = session.next_dial()
        urls.append(dial.url)
        assert dial.resume
        session.dial_failed("refused", resume_url=dial.url is not None, now=2.0)
    assert urls[:4] == ["wss://resume.test", None, "wss://resume.test", None]


def test_backoff_from_the_first_failure_and_capped():
    session = new_session()
    delays = [redial(session.dial_failed("refused", resume_url=False, now=0.0)).delay for _ in range(20)]
    assert delays[0] == 0.5
    assert delays == sorted(delays)
    assert delays[-1] == BACKOFF_CAP


def test_backoff_is_reset_by_ready_only():
    session = new_session()
    for _ in range(8):
        session.dial_failed("refused", resume_url=False, now=0.0)
    opened(session)
    assert session.failures == 8
    session.receive(0, READY, 0.0, "READY", 1)
    assert session.failures == 0


def test_sessions_that_die_young_do_not_spend_the_daily_budget():
    session, now, identifies = new_session(), 0.0, 0
    while now < 86_400:
        opened(session, now)
        identifies += 1
        session.receive(0, READY, now, "READY", 1)
        now += 1 + redial(session.lost(4009, "", now + 1)).delay
    assert identifies < 400


#: What each connection of a day of outage does, step by step: (seconds since the last step, what happens).
OUTAGES = {
    "DNS, refused, TLS, HTTP 429 or 5xx on upgrade": [(1, "dial fails")],
    "connects, then no Hello": [(25, "tick")],
    "connects, then a reset": [(1, "lost")],
    "Hello, then no READY": [(1, "hello"), (65, "tick")],
    "Hello, then a reset": [(1, "hello"), (1, "lost")],
    "op 7 for every Hello": [(1, "hello"), (1, "op 7")],
    "op 9 true for every Hello": [(1, "hello"), (1, "op 9 true")],
    "op 9 false for every Hello": [(1, "hello"), (1, "op 9 false")],
    "READY, then no ack": [(1, "hello"), (1, "ready"), (41, "tick"), (41, "tick")],
    "READY, then the session ends": [(1, "hello"), (1, "ready"), (10, "4009")],
    "READY, then a reset; the resume is refused": [(1, "hello"), (1, "ready or op 9 false"), (5, "lost")],
    "READY, then closed with 1000 again and again": [(1, "hello"), (1, "ready or silence"), (2, "1000")],
    "every second dial fails": [(1, "dial fails every second time"), (1, "hello"), (1, "op 9 false")],
    "a cloud of dead resume urls": [(1, "dial fails for resumes"), (1, "hello"), (1, "ready"), (2, "lost")],
}


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("stored", [False, True])
def test_a_day_of_each_outage_leaves_most_of_the_budget(outage, stored):
    session, now, dials, identifies = new_session(), 0.0, 0, 0
    if stored:
        session.restore(StoredSession("xyz", "wss://resume.test", 40, "9"))
    while now < 86_400:
        actions, dials, dial = [], dials + 1, session.next_dial()
        for seconds, step in OUTAGES[outage]:
            now += seconds
            if step.startswith("dial fails") and fails(step, dials, dial):
                actions = session.dial_failed("refused", resume_url=dial.url is not None, now=now)
                break
            if session.link is None:
                session.opened(now)
            actions += perform(session, step, now)
        if session.link is not None:
            actions += session.lost(None, "", now)
        identifies += SendIdentify in kinds(actions)
        now += redial(actions).delay
    assert identifies < 400  # of a thousand
    assert dials < 20_000


def fails(step: str, dials: int, dial: Dial) -> bool:
    return {
        "dial fails": True,
        "dial fails every second time": dials % 2 == 0,
        "dial fails for resumes": dial.resume,
    }[step]


def perform(session: Session, step: str, now: float) -> list:
    resuming = session.state == "resuming"
    if step == "hello":
        return session.receive(HELLO, {"heartbeat_interval": INTERVAL * 1000}, now)
    if step == "tick":
        return session.tick(now)
    if step == "op 7":
        return session.receive(RECONNECT, None, now)
    if step.endswith("op 9 false") and (resuming or step == "op 9 false"):
        return session.receive(INVALID, False, now)
    if step == "op 9 true":
        return session.receive(INVALID, True, now)
    if step.startswith("ready") and not resuming:
        return session.receive(0, READY, now, "READY", 1)
    if step == "lost":
        return session.lost(None, "", now)
    if step.isdigit():
        return session.lost(int(step), "", now)
    return []


@pytest.mark.parametrize("answer", ["op 9", "silence", "lost"])
def test_a_day_of_unanswered_identifies(answer):
    session, now, identifies = new_session(), 0.0, 0
    while now < 86_400:
        opened(session, now)
        identifies += 1
        if answer == "op 9":
            session.receive(INVALID, False, now)
        now += 1 + redial(session.lost(None, "", now)).delay
    assert identifies < 400


def test_a_stored_session_is_resumed():
    session = new_session()
    session.restore(StoredSession("xyz", "wss://resume.test", 40, "9"))
    assert session.next_dial() == Dial("wss://resume.test", True)
    session.opened(0.0)
    assert session.receive(HELLO, {"heartbeat_interval": 1000}, 0.0)[1] == SendResume("xyz", 40)
    assert session.stored(41) == StoredSession("xyz", "wss://resume.test", 41, "9")


# ------------------------------------------------------------------ robustness


@pytest.mark.parametrize("op", [2, 5, 6, 12, 99, -1])
def test_unknown_opcodes_are_ignored(op):
    session = ready()
    assert session.receive(op, {"x": 1}, 1.0) == []
    assert session.state is State.READY


@pytest.mark.parametrize("op", [HELLO, HEARTBEAT, RECONNECT, INVALID, ACK, 0])
def test_nothing_is_said_after_leaving(op):
    session = ready()
    session.receive(RECONNECT, None, 1.0)
    assert session.receive(op, READY, 2.0, "READY", 1) == []
    assert session.tick(500.0) == []


@pytest.mark.parametrize("name", ["READY", "RESUMED"])
def test_a_session_before_hello_is_left(name):
    session = new_session()
    session.opened(0.0)
    assert kinds(session.receive(0, READY, 1.0, name, 1)) == [Disconnect]  # no heartbeat would ever find it dead
    assert session.session_id is None


def test_a_second_hello_changes_nothing():
    session = ready()
    assert session.receive(HELLO, {"heartbeat_interval": 1}, 1.0) == []
    assert session.link.interval == INTERVAL


def test_lost_without_a_connection_says_nothing():
    assert new_session().lost(None, "", 0.0) == []
