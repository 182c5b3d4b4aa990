"""A shard: its thread, from dial to dial, and what users read of it."""

import logging
import time
from threading import Thread, current_thread

from .actions import Action, Dial, Emit, Fail, Redial, State
from .connection import ConnectFailed, Connection
from .errors import FatalCloseError
from .events import Event
from .handshake import with_query
from .receiving import Receiving
from .session import CLOSE_FOR_GOOD, CLOSE_RESUMABLE
from .sessions import StoredSession
from .stats import ShardStats
from .wiring import Wiring

logger = logging.getLogger(__name__)

#: Back-off after an unexpected error, seconds.
AFTER_ERROR = 5.0


class Shard(Receiving):
    """One shard of a gateway: read ``state``, ``latency``, ``session_id``, ``sequence`` from any thread.

    ``id`` is its number, ``count`` how many shards the bot has. ``gateway.shards`` has those that run here.
    """

    def __init__(self, shard_id: int, shard_count: int, wiring: Wiring) -> None:
        super().__init__(shard_id, shard_count, wiring)
        #: Connections made.
        self.connects = 0
        #: Bytes received and inflated on connections that are over, and the one that is not: read as one, so that
        #: a look at the moment when it ends counts its bytes, and once.
        self._bytes: tuple[int, int, Connection | None] = (0, 0, None)
        self._thread: Thread | None = None
        #: The close code to leave with.
        self._close_code = CLOSE_FOR_GOOD

    # ---------------------------------------------------------------- what users read

    @property
    def state(self) -> str:
        """``connecting``, ``identifying``, ``resuming``, ``ready``, ``waiting``, ``stopped`` or ``failed``."""
        return self.session.state

    @property
    def latency(self) -> float | None:
        """Seconds from the last heartbeat to its ack; None before the first."""
        return self.session.latency

    @property
    def session_id(self) -> str | None:
        """The session's id, as Discord gave it with READY; None while there is no session."""
        return self.session.session_id

    @property
    def sequence(self) -> int | None:
        """The last sequence number received; None while there is no session."""
        return self.session.sequence

    def stats(self) -> ShardStats:
        """The numbers of this shard, now."""
        received, inflated, connection = self._bytes
        if connection is not None:
            received, inflated = received + connection.received_bytes, inflated + connection.inflated_bytes
        session = self.session
        return ShardStats(
            self.id,
            session.state,
            session.latency,
            session.sequence,
            self.events,
            self.connects,
            self.resumes,
            self.outbox.sent,
            received,
            inflated,
            session.blocked,
            dict(session.reconnects),
            {type or "": count for type, count in self.types.copy().items()},
        )

    def count_on(self, before: "Shard") -> None:
        """Take over the counts of the shard that this one replaces, before ``start``: counters only grow."""
        self.events, self.connects, self.resumes = before.events, before.connects, before.resumes
        self.types = before.types
        self.session.reconnects = before.session.reconnects
        self.outbox.sent = before.outbox.sent
        self._bytes = before._bytes

    def _log(self, level: int, text: str, *values: object) -> None:
        logger.log(level, f"shard %d: {text}", self.id, *values, extra={"shard": self.id}, stacklevel=2)

    def __repr__(self) -> str:
        latency = f", {self.latency * 1000:.0f} ms" if self.latency is not None else ""
        return f"<Shard {self.id} of {self.count} {self.state}{latency}>"

    # ---------------------------------------------------------------- life

    def restore(self, stored: StoredSession) -> None:
        """Take up a stored session, before ``start``."""
        self.session.restore(stored)
        self.dealt = stored.sequence

    def dealt_session(self) -> tuple[StoredSession, int] | None:
        """The session with the sequence up to which everything is dealt, and its floor; None: there is none."""
        with self._lock:
            session = self.session
            stored = session.stored(self.dealt if self.dealt is not None else session.floor)
            return None if stored is None or session.floor is None else (stored, session.floor)

    def start(self) -> None:
        """Start the thread. The place in the identify queue is taken here, so that shards start in order."""
        if not self.session.can_resume:
            self._ticket = self._wiring.limiter.enqueue(self.id)
        self._thread = Thread(target=self._run, name=f"crux-shard-{self.id}", daemon=True)
        self._thread.start()

    def stop(self, *, resumable: bool, abandon: bool) -> None:
        """Leave Discord and end the thread, without waiting for it. Any thread.

        ``resumable``: keep the session alive on the server. ``abandon``: do not wait for full consumers.
        """
        with self._lock:
            self._abandoning = self._abandoning or abandon
            if not self._stopping.is_set():
                self._close_code = CLOSE_RESUMABLE if resumable else CLOSE_FOR_GOOD
                self.session.closing(resumable=resumable)
                self._stopping.set()
        if (ticket := self._ticket) is not None:
            ticket.cancel()
        self._wiring.hub.room_made()
        if (connection := self._connection) is None:
            return
        if connection.established:
            self._say_goodbye(connection, self._close_code)
        else:
            connection.abort()

    def abort(self) -> None:
        """Cut the connection now."""
        self._abandoning = True
        self._stopping.set()
        self._wiring.hub.room_made()
        if (connection := self._connection) is not None:
            connection.abort()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread; whether it has ended. True from the thread itself."""
        thread = self._thread
        if thread is None or thread is current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    delay = self._connect_and_read()
                except Exception as error:  # nothing may end this thread unseen: report, back off, reconnect
                    logger.exception("shard %d: unexpected error", self.id, extra={"shard": self.id})
                    self._wiring.host.report(error, None, self)
                    with self._lock:
                        self.session.link = None
                        self.session.state = State.WAITING
                        if self.dealt is not None:  # what was not dealt is asked for again
                            self.session.sequence = self.dealt
                    delay = AFTER_ERROR
                if delay is None:
                    return
                self._stopping.wait(delay)
        finally:
            self._end()

    def _end(self) -> None:
        self._release_ticket()
        self.outbox.close()
        with self._lock:
            self.session.link = None
            if self.session.state is not State.FAILED:
                self.session.state = State.STOPPED
            if self._stopping.is_set() and self._close_code == CLOSE_FOR_GOOD:
                self.session.forget()
        self._wiring.heartbeater.schedule(self, None)

    def _connect_and_read(self) -> float | None:
        """One connection, from the dial to its end. The delay before the next one; None: there is none."""
        dial = self.session.next_dial()
        if not dial.resume and not self._wait_for_permit():
            return None
        connection = Connection(self._wiring.compress, permitted=self._wiring.permitted)
        self._connection = connection
        received, inflated, _ = self._bytes
        self._bytes = (received, inflated, connection)
        try:
            actions = self._open(connection, dial)
            if actions is None:
                with self._lock:
                    self.session.opened(time.monotonic())
                    self._leave_by = None
                    self._unsent = None
                self.connects += 1
                self._schedule()
                if self._stopping.is_set():  # stop() may have looked before there was a transport
                    self._say_goodbye(connection, self._close_code)
                broken = self._read(connection)
                actions = self._lost(connection, broken)
        finally:
            self.outbox.hold()
            self._connection = self._budget = None
            self._bytes = (received + connection.received_bytes, inflated + connection.inflated_bytes, None)
            self._release_ticket()
            connection.close()
        return self._perform_after(actions)

    def _wait_for_permit(self) -> bool:
        with self._lock:
            self.session.state = State.WAITING
        if self._ticket is None:
            self._ticket = self._wiring.limiter.enqueue(self.id)
        self._log(logging.DEBUG, "waiting for an identify")
        if self._stopping.is_set() or not self._ticket.wait(self._stopping):
            return False
        with self._lock:
            self.session.state = State.CONNECTING
        return True

    def _open(self, connection: Connection, dial: Dial) -> list[Action] | None:
        """Dial. None when connected, else what the session makes of the failure."""
        url = dial.url
        self._log(logging.DEBUG, "dialling, to %s", "resume" if dial.resume else "identify")
        with self._lock:
            self.session.state = State.CONNECTING
        try:
            if url is None or not self._wiring.host.may_resume_at(url):
                url = None
                base = self._wiring.host.gateway_url(refresh=self.session.failures > 0)
            else:
                base = url
            connection.open(
                with_query(base, self._wiring.compress),
                ssl_context=self._wiring.ssl_context,
                proxy=self._wiring.proxy,
            )
        except FatalCloseError as error:
            return self._fatal(error)
        except ConnectFailed as error:
            if not self._stopping.is_set():
                self._log(logging.WARNING, "%s", error)
            with self._lock:
                return self.session.dial_failed(str(error), resume_url=url is not None, now=time.monotonic())
        return None

    def _fatal(self, error: FatalCloseError) -> list[Action]:
        with self._lock:
            self.session.state = State.FAILED
        return [Emit("SHARD_FAILED", {"code": error.code, "reason": str(error)}), Fail(error)]

    def _lost(self, connection: Connection, broken: str | None) -> list[Action]:
        frame = connection.close_frame
        with self._lock:
            if self._stopping.is_set():
                self.session.closing(resumable=self._close_code == CLOSE_RESUMABLE)
            if frame is not None:
                return self.session.lost(frame.code, frame.reason, time.monotonic())
            return self.session.lost(None, broken or "", time.monotonic())

    def _perform_after(self, actions: list[Action]) -> float | None:
        delay: float | None = None
        for action in actions:
            if isinstance(action, Emit):
                self._debug_life(action)
                self._wiring.hub.publish([Event.create(action.type, action.data, self.id)], self)
            elif isinstance(action, Fail):
                self._wiring.host.shard_failed(self.id, action.error)
                return None
            elif isinstance(action, Redial):
                delay = action.delay
                self._log(logging.DEBUG, "next connection in %.1f s", delay)
        return None if self._stopping.is_set() else delay
