"""What a shard says: it performs what its session decides, and beats. Drivers only, no decisions."""

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from threading import Lock

from .actions import Action, Disconnect, Emit, SendHeartbeat, SendIdentify, SendResume
from .connection import CLOSE_DEADLINE, Connection
from .events import Event
from .handshake import heartbeat, identify, resume
from .limits import IdentifyTicket, SendBudget
from .outbox import Outbox
from .session import Session
from .wiring import Wiring

#: How soon a heartbeat that met a busy lock, or bytes the kernel did not take, are tried again, seconds.
RETRY = 0.005
RETRY_FLUSH = 0.05


class Sending(ABC):
    """A shard's session and connection, as far as writing goes. ``Receiving`` adds what is read, ``Shard`` its life."""

    def __init__(self, shard_id: int, shard_count: int, wiring: Wiring) -> None:
        self.id = shard_id
        self.count = shard_count
        self.session = Session(shard_id, shard_count)
        self._wiring = wiring
        #: Guards the session. Held to decide, never while sending, delivering, or running user code.
        self._lock = Lock()
        self._connection: Connection | None = None
        self._ticket: IdentifyTicket | None = None
        #: By when the server must have answered our close frame.
        self._leave_by: float | None = None
        #: A heartbeat that met a busy lock.
        self._unsent: bytes | None = None
        #: Commands that wait for the session or for the budget of the connection.
        self.outbox = Outbox(shard_id)
        self._budget: SendBudget | None = None

    @abstractmethod
    def _log(self, level: int, text: str, *values: object) -> None:
        """Log with the shard's number, and nothing for each beat on the timer thread: a slow log delays all others."""

    def _debug_life(self, emit: Emit) -> None:
        # With the session id and the token anyone could take the session over: half of that is enough to keep back.
        details = {key: value for key, value in emit.data.items() if key != "session_id"}
        self._log(logging.DEBUG, "%s %s", emit.type.removeprefix("SHARD_").lower(), details)

    def _release_ticket(self) -> None:
        if self._ticket is not None:
            self._ticket.release()
            self._ticket = None

    # ---------------------------------------------------------------- performing

    def _perform(self, actions: list[Action]) -> list[Event]:
        """Do what the session decided; the events to publish. The identify is for the shard's own thread."""
        emitted: list[Event] = []
        for action in actions:
            if isinstance(action, Emit):
                self._debug_life(action)
                emitted.append(Event.create(action.type, action.data, self.id))
            elif isinstance(action, SendHeartbeat):
                self._send(heartbeat(action.sequence))
            elif isinstance(action, SendIdentify):
                self._log(logging.DEBUG, "identifying")
                self._identify()
            elif isinstance(action, SendResume):
                self._log(logging.DEBUG, "resuming after %d", action.sequence)
                self._send(resume(self._wiring.token(), action.session_id, action.sequence))
            elif isinstance(action, Disconnect):
                self._disconnect(action)
        return emitted

    def _identify(self) -> None:
        wiring = self._wiring
        self._send(
            identify(
                wiring.token(),
                wiring.intents,
                wiring.large_threshold,
                (self.id, self.count),
                wiring.host.presence_for(self.id),
            )
        )
        if self._ticket is not None:
            self._ticket.sent()

    def _send(self, payload: bytes) -> None:
        """Heartbeat, identify, resume: counted, never held up."""
        if (connection := self._connection) is not None:
            self._count_priority(time.monotonic())
            connection.send(payload)

    def _count_priority(self, now: float) -> None:
        link = self.session.link
        if self._budget is None and link is not None and link.interval is not None:
            self._budget = SendBudget(link.interval)
        if self._budget is not None:
            self._budget.record_priority(now)

    def _disconnect(self, action: Disconnect) -> None:
        self._log(logging.INFO, "leaving: %s", action.why)
        if (connection := self._connection) is None:
            return
        if action.drop:
            connection.abort()
        else:
            self._say_goodbye(connection, action.code)

    def _say_goodbye(self, connection: Connection, code: int) -> None:
        """Send a close frame; the reader reads on for the answer, but not for long."""
        self._leave_by = time.monotonic() + CLOSE_DEADLINE
        with contextlib.suppress(OSError):
            connection.send_close(code)
        self._wiring.heartbeater.schedule(self, self._leave_by)

    # ---------------------------------------------------------------- the timer thread

    def _schedule(self) -> None:
        with self._lock:
            due = self.session.next_deadline()
        if due is not None and self._leave_by is None:
            self._wiring.heartbeater.schedule(self, due)

    def tick(self, now: float) -> float | None:
        """Called by the timer thread: beat, watch deadlines. Never blocks; when to be called again."""
        connection = self._connection
        if connection is None:
            return None
        if self._leave_by is not None:
            if now < self._leave_by:
                return self._leave_by
            connection.abort()
            return None
        if not self._lock.acquire(blocking=False):
            return now + RETRY
        try:
            actions = self.session.tick(now)
            due = self.session.next_deadline()
            interval = self.session.link.interval if self.session.link is not None else None
        finally:
            self._lock.release()
        for action in actions:
            if isinstance(action, SendHeartbeat):
                self._unsent = heartbeat(action.sequence)
            else:
                self._perform([action])
                return self._leave_by
        return self._push_on(connection, now, due, interval)

    def _push_on(self, connection: Connection, now: float, due: float | None, interval: float | None) -> float | None:
        """Get an unsent heartbeat, and bytes the kernel did not take, on their way."""
        if self._unsent is not None:
            if not connection.send(self._unsent, wait=False) and not connection.broken:
                return now + RETRY
            self._unsent = None
            self._count_priority(now)
        connection.flush()
        pending_since = connection.pending_since
        if pending_since is None:
            return due
        if interval is not None and now - pending_since > interval / 2:
            if not self._lock.acquire(blocking=False):
                return now + RETRY
            try:
                actions = self.session.send_stuck("sends do not get through")
            finally:
                self._lock.release()
            self._perform(actions)
            return None
        return min(now + RETRY_FLUSH, due if due is not None else now + RETRY_FLUSH)
