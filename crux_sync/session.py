"""One shard's session with Discord, as a pure state machine.

``Session`` knows what the server knows of us and decides what to do; it has no thread, socket or clock. It is
told what happened, with ``now`` (monotonic seconds), and answers with actions that the shard performs::

    opened ──Hello──> identifying ──READY────> ready        lost, op 7, op 9, no ack, deadline:
                 └──> resuming ────RESUMED──> ready         back-off, then resume or identify

What belongs to one connection lives in ``Link``, which dies with it. Everything that changes state is here, but
for one thing: an ordinary dispatch is a single assignment to ``sequence`` by the shard, because it is the hot path.
Section numbers are those of the protocol digest.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .actions import (
    Action,
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
from .close_codes import CONNECTION_LOST, UNKNOWN_CODE, Outcome, close_policy
from .errors import ProtocolError
from .opcodes import Opcode
from .sessions import StoredSession

#: Deadlines, seconds. Outages make READY late (6.5), and giving up costs an identify: generous.
HELLO_DEADLINE = 20.0
READY_DEADLINE = 60.0

#: Back-off, seconds. Dials cost nothing but politeness. An identify that earns no READY costs one of a thousand
#: a day: 300 s with half jitter is at most 384 a day for one shard; the ledger watches over many.
BACKOFF_FIRST = 0.5
BACKOFF_CAP = 60.0
IDENTIFY_BACKOFF_CAP = 300.0

#: A session that was never ready for longer than this, resumes included, counts as a failed identify.
STABLE_AFTER = 60.0

#: Resumes sent for one session without RESUMED before it is given up (16.9).
RESUME_ATTEMPTS = 3

#: Heartbeats that may stay unanswered while other payloads still arrive (discordeno#2311: acks come late in floods).
UNANSWERED_BEATS = 3

#: Our own close codes. 1000 and 1001 end the session (6.6), so they mean just that.
CLOSE_RESUMABLE = 4000
CLOSE_FOR_GOOD = 1000


@dataclass(slots=True)
class Link:
    """What belongs to one connection and dies with it."""

    opened: float
    #: When the next thing must have happened: Hello, then READY or RESUMED. None once it has.
    deadline: float | None
    #: Seconds between heartbeats, from Hello.
    interval: float | None = None
    next_beat: float | None = None
    beat_sent: float | None = None
    #: Timed heartbeats since the last ack. Requested ones (op 1) are exempt (6.4).
    unanswered: int = 0
    last_received: float = 0.0
    ready_at: float | None = None
    #: The sequence our Resume named, to see whether the replay got anywhere.
    resumed_from: int | None = None
    #: Set when we decide to leave: outcome, and the wait before the next connection (None: back-off).
    verdict: "Verdict | None" = None


class Verdict(NamedTuple):
    """Our own decision to leave a connection.

    ``delay``: at least so long before the next one; None: back-off alone. ``cause``: one of a few words, for counting;
    None: not counted.
    """

    outcome: Outcome
    delay: float | None
    why: str
    cause: str | None


@dataclass(slots=True)
class Session:
    """The state machine of one shard."""

    shard_id: int
    shard_count: int
    uniform: Callable[[float, float], float] = random.uniform
    #: With a persistent store, heartbeats carry the handled sequence instead of the received one.
    beats_carry_handled: bool = False

    state: State = State.CONNECTING
    session_id: str | None = None
    resume_url: str | None = None
    sequence: int | None = None
    handled: int | None = None
    #: No resume goes back beyond this: the sequence of READY, or of the stored session.
    floor: int | None = None
    #: The bot's own user and application, from READY.
    user_id: str | None = None
    application_id: str | None = None
    #: Seconds between the last heartbeat and its ack.
    latency: float | None = None
    link: Link | None = None

    #: Connections in a row that reached neither READY nor RESUMED.
    failures: int = 0
    #: Identifies in a row that gained no lasting session.
    identify_failures: int = 0
    #: When READY came, and when a connection of this session that was ready was last lost; None: from a store.
    born: float | None = None
    last_alive: float = 0.0
    resumes_unanswered: int = 0
    resume_once_spent: bool = False
    #: Since the last failed dial of the resume url the main url is tried, then the resume url again.
    avoid_resume_url: bool = False
    reconnects_requested: int = 0
    #: Set while the consumers are full and the socket is not read.
    blocked: bool = field(default=False)
    #: How often the connection was lost, or not made, and has to be made anew, by cause.
    reconnects: Counter[str] = field(default_factory=Counter)

    # ---------------------------------------------------------------- what the shard asks

    def next_dial(self) -> Dial:
        """Where to connect now, and whether to resume there."""
        resume = self.can_resume
        # A resume url belongs to resumes alone (6.8); where it cannot be reached the main one resumes too (18.38).
        url = self.resume_url if resume and not self.avoid_resume_url else None
        return Dial(url, resume)

    @property
    def can_resume(self) -> bool:
        return self.session_id is not None and self.sequence is not None

    def stored(self, sequence: int | None) -> StoredSession | None:
        """The session for a store, to be resumed after ``sequence``; None: there is none."""
        if self.session_id is None or sequence is None:
            return None
        return StoredSession(self.session_id, self.resume_url, sequence, self.user_id, self.application_id)

    def restore(self, stored: StoredSession) -> None:
        """Take up a stored session."""
        self.session_id, self.resume_url, self.sequence, self.user_id, self.application_id = stored
        self.handled = self.floor = stored.sequence

    def forget(self) -> None:
        """The session is over on the server, or given up."""
        self.session_id = self.resume_url = self.sequence = self.handled = self.floor = self.born = None
        self.resumes_unanswered = 0
        self.resume_once_spent = self.avoid_resume_url = False

    # ---------------------------------------------------------------- what happened

    def opened(self, now: float) -> None:
        """A connection is up; Hello is due."""
        self.state = State.CONNECTING
        self.link = Link(opened=now, deadline=now + HELLO_DEADLINE, last_received=now)

    def receive(
        self, op: int, data: Any, now: float, type: str | None = None, sequence: int | None = None
    ) -> list[Action]:
        """A payload that is not an ordinary dispatch: control opcodes, READY, RESUMED."""
        link = self.link
        if link is None or link.verdict is not None:
            return []
        link.last_received = now
        handler = HANDLERS.get(op)
        if handler is not None:
            return handler(self, link, data, now)
        if op == Opcode.DISPATCH:
            if type in ("READY", "RESUMED") and link.interval is None:
                return self.leave(link, Outcome.RESUME, f"{type} before Hello")
            if sequence is not None:
                self.sequence = sequence
            if type == "READY":
                return self.on_ready(link, data, now)
            if type == "RESUMED":
                return self.on_resumed(link, now)
        return []  # unknown opcodes are normal (16.13)

    def tick(self, now: float) -> list[Action]:
        """Time has passed: perhaps a heartbeat is due, or a deadline is over."""
        link = self.link
        if link is None or link.verdict is not None:
            return []
        if link.deadline is not None and now >= link.deadline and not self.blocked:
            return self.deadline_passed(link, now)
        if link.next_beat is None or link.interval is None or now < link.next_beat:
            return []
        if not self.blocked and self.is_zombie(link):
            return self.leave(link, Outcome.RESUME, "heartbeat not acknowledged", "no ack", drop=True)
        # From the moment it was due, so that delays do not add up; from now when a beat or more was missed.
        link.next_beat = max(link.next_beat, now - link.interval) + link.interval
        link.unanswered += 1
        link.beat_sent = now
        return [SendHeartbeat(self.beat_sequence)]

    def next_deadline(self) -> float | None:
        """When ``tick`` is due next; None while there is no connection."""
        link = self.link
        if link is None or link.verdict is not None:
            return None
        deadline = None if self.blocked else link.deadline
        return min([time for time in (deadline, link.next_beat) if time is not None], default=None)

    def unblocked(self, now: float) -> None:
        """The socket is read again: what was missed while it was not, is no fault of the server."""
        self.blocked = False
        if self.link is not None:
            self.link.unanswered = 0
            self.link.last_received = now
            if self.link.deadline is not None:
                self.link.deadline = now + READY_DEADLINE

    def protocol_broken(self, why: str) -> list[Action]:
        """The stream cannot be read on (bad frame, bad inflate, bad JSON): resume on a new connection (6.12)."""
        if self.link is None or self.link.verdict is not None:
            return []
        return self.leave(self.link, Outcome.RESUME, why)

    def send_stuck(self, why: str) -> list[Action]:
        """Our sends do not get through: the link is dead."""
        if self.link is None or self.link.verdict is not None:
            return []
        return self.leave(self.link, Outcome.RESUME, why, "send stuck", drop=True)

    def closing(self, *, resumable: bool) -> None:
        """The user closes: say nothing more on this connection, and forget the session unless it is to be kept."""
        if self.link is not None:
            self.link.verdict = Verdict(Outcome.RESUME if resumable else Outcome.IDENTIFY, 0.0, "closing", None)

    def dial_failed(self, reason: str, *, resume_url: bool, now: float) -> list[Action]:
        """No connection was made. That never costs a session."""
        self.link = None
        self.avoid_resume_url = resume_url
        self.failures += 1
        return self.redial(CONNECTION_LOST, reason, None, "dial failed")

    def lost(self, code: int | None, reason: str, now: float) -> list[Action]:
        """The connection is gone. ``code``: what the server's close frame said, None without one."""
        link, self.link = self.link, None
        if link is None:
            return []
        policy = close_policy(CONNECTION_LOST if code is None else code)
        if policy.error is not None:  # fatal, whatever we were about to do
            self.state = State.FAILED
            self.forget()
            error = policy.error(code, reason, self.shard_id)
            return [Emit("SHARD_FAILED", {"code": code, "reason": str(error)}), Fail(error)]
        outcome, delay, why, cause = link.verdict or Verdict(
            policy.outcome, None, reason or policy.name, policy.name if code is None else f"{policy.name} ({code})"
        )
        if policy is UNKNOWN_CODE and link.verdict is None:
            cause = policy.name  # whatever numbers a server may think of
        self.count_failure(link, now, identified=self.state is State.IDENTIFYING)
        if outcome is Outcome.RESUME_ONCE:
            outcome = Outcome.IDENTIFY if self.resume_once_spent else Outcome.RESUME
            self.resume_once_spent = True
        if outcome is Outcome.IDENTIFY or self.resumes_unanswered >= RESUME_ATTEMPTS:
            self.note_short_session()
            self.forget()
        if delay is None:
            delay = max(self.backoff(), policy.pause)
        elif self.failures > 1 or not self.can_resume:
            delay = max(self.backoff(), delay)
        return self.redial(code if code is not None else CONNECTION_LOST, why, delay, cause)

    # ---------------------------------------------------------------- opcodes

    def on_hello(self, link: Link, data: Any, now: float) -> list[Action]:
        interval = data.get("heartbeat_interval") if isinstance(data, dict) else None
        if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 < interval < 1e9:
            return self.leave(link, Outcome.RESUME, f"Hello without a usable heartbeat_interval: {interval!r:.80}")
        if link.interval is not None:
            return []
        link.interval = interval / 1000
        link.next_beat = now + link.interval * self.uniform(0.0, 1.0)
        link.deadline = now + READY_DEADLINE
        connected = Emit("SHARD_CONNECTED", {"heartbeat_interval": interval})
        if self.session_id is None or self.sequence is None:
            self.state = State.IDENTIFYING
            return [connected, SendIdentify()]
        self.state = State.RESUMING
        self.resumes_unanswered += 1
        link.resumed_from = self.sequence
        return [connected, SendResume(self.session_id, self.sequence)]

    def on_heartbeat_request(self, link: Link, data: Any, now: float) -> list[Action]:
        # Outside the timed series: no ack is demanded for it and the timer runs on (6.4).
        return [SendHeartbeat(self.beat_sequence)]

    def on_ack(self, link: Link, data: Any, now: float) -> list[Action]:
        if link.unanswered and link.beat_sent is not None:
            self.latency = now - link.beat_sent
        link.unanswered = 0
        return []

    def on_reconnect(self, link: Link, data: Any, now: float) -> list[Action]:
        # At once the first time, a little spread where many shards hear it together (18.37); a server that says
        # nothing else is met with back-off.
        self.reconnects_requested += 1
        delay = self.uniform(0.0, min(1.0, self.shard_count / 100)) if self.reconnects_requested == 1 else None
        return self.leave(link, Outcome.RESUME, "reconnect requested", "op 7", delay=delay)

    def on_invalid_session(self, link: Link, data: Any, now: float) -> list[Action]:
        # The wait of 1-5 s comes from Discord's staff (6.10). Anything but true means the session is gone.
        delay = self.uniform(1.0, 5.0)
        if data is True:
            return self.leave(link, Outcome.RESUME, "session invalidated, may be resumed", "op 9", delay=delay)
        return self.leave(link, Outcome.IDENTIFY, "session invalidated", "op 9", delay=delay, code=CLOSE_FOR_GOOD)

    def on_ready(self, link: Link, data: Any, now: float) -> list[Action]:
        try:
            session_id, resume_url = read_ready(data)
        except ProtocolError as error:
            return self.leave(link, Outcome.IDENTIFY, str(error))
        self.session_id, self.resume_url = session_id, resume_url
        self.user_id, self.application_id = read_id(data.get("user")), read_id(data.get("application"))
        # READY does not come again after a resume (6.8): it counts as handled from the start.
        self.handled = self.floor = self.sequence
        self.born = now
        self.session_established(link, now)
        return [Emit("SHARD_READY", {"session_id": session_id, "guilds": count_guilds(data)})]

    def on_resumed(self, link: Link, now: float) -> list[Action]:
        replayed_from = link.resumed_from
        self.session_established(link, now)
        return [Emit("SHARD_RESUMED", {"session_id": self.session_id, "resumed_from": replayed_from})]

    # ---------------------------------------------------------------- decisions

    @property
    def beat_sequence(self) -> int | None:
        return self.handled if self.beats_carry_handled else self.sequence

    def session_established(self, link: Link, now: float) -> None:
        self.state = State.READY
        link.deadline = None
        link.ready_at = now
        self.failures = self.resumes_unanswered = self.reconnects_requested = 0
        self.resume_once_spent = self.avoid_resume_url = False

    def is_zombie(self, link: Link) -> bool:
        """No ack since the last timed heartbeat, and nothing else either (6.3)."""
        if link.unanswered == 0 or link.beat_sent is None:
            return False
        return link.last_received < link.beat_sent or link.unanswered >= UNANSWERED_BEATS

    def deadline_passed(self, link: Link, now: float) -> list[Action]:
        if link.interval is None:
            return self.leave(link, Outcome.RESUME, f"no Hello within {HELLO_DEADLINE:g} s", "no Hello", drop=True)
        if self.state is State.RESUMING and self.sequence != link.resumed_from:
            # A long replay is running: the deadline is for getting on, not for getting done.
            link.resumed_from, link.deadline = self.sequence, now + READY_DEADLINE
            self.resumes_unanswered = 0
            return []
        what = "RESUMED" if self.state is State.RESUMING else "READY"
        return self.leave(link, Outcome.RESUME, f"no {what} within {READY_DEADLINE:g} s", f"no {what}")

    def leave(
        self,
        link: Link,
        outcome: Outcome,
        why: str,
        cause: str = "protocol error",
        *,
        delay: float | None = None,
        code: int = CLOSE_RESUMABLE,
        drop: bool = False,
    ) -> list[Action]:
        link.verdict = Verdict(outcome, delay, why, cause)
        return [Disconnect(code, why, drop)]

    def count_failure(self, link: Link, now: float, *, identified: bool) -> None:
        if link.ready_at is not None:
            self.last_alive = now
            return
        self.failures += 1
        if identified:
            self.identify_failures += 1
        if link.resumed_from is not None and self.sequence != link.resumed_from:
            self.resumes_unanswered = 0  # the replay got somewhere: the session lives

    def note_short_session(self) -> None:
        """Sessions that die young spend identifies, also when a resume tells us so: let the back-off grow over them."""
        if self.born is not None:
            short = self.last_alive - self.born < STABLE_AFTER
            self.identify_failures = self.identify_failures + 1 if short else 0

    def backoff(self) -> float:
        """Exponential, from the first failure on, with half jitter."""

        def grown(failures: int, cap: float) -> float:
            return min(cap, BACKOFF_FIRST * 2.0 ** min(failures, 30))

        bound = grown(max(self.failures - 1, 0), BACKOFF_CAP)
        if not self.can_resume and self.identify_failures:
            bound = max(bound, grown(self.identify_failures, IDENTIFY_BACKOFF_CAP))
        return bound * self.uniform(0.5, 1.0)

    def redial(self, code: int, reason: str, delay: float | None, cause: str | None) -> list[Action]:
        self.state = State.WAITING
        if cause is not None:
            self.reconnects[cause] += 1
        details = {"code": code, "reason": reason, "will_resume": self.can_resume}
        return [Emit("SHARD_DISCONNECTED", details), Redial(self.backoff() if delay is None else delay)]


Handler = Callable[[Session, Link, Any, float], list[Action]]

#: What each opcode from the server does (3.3). Dispatch is not here: it is the hot path.
HANDLERS: dict[int, Handler] = {
    Opcode.HEARTBEAT: Session.on_heartbeat_request,
    Opcode.RECONNECT: Session.on_reconnect,
    Opcode.INVALID_SESSION: Session.on_invalid_session,
    Opcode.HELLO: Session.on_hello,
    Opcode.HEARTBEAT_ACK: Session.on_ack,
}


def read_ready(data: Any) -> tuple[str, str | None]:
    """Session id and resume url of READY. Only ``session_id`` is indispensable."""
    if not isinstance(data, dict):
        raise ProtocolError("READY without an object")
    session_id, resume_url = data.get("session_id"), data.get("resume_gateway_url")
    if not isinstance(session_id, str) or not session_id:
        raise ProtocolError("READY without a session_id")
    return session_id, resume_url if isinstance(resume_url, str) and resume_url else None


def read_id(value: Any) -> str | None:
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def count_guilds(data: dict[str, Any]) -> int:
    guilds = data.get("guilds")
    return len(guilds) if isinstance(guilds, list) else 0
