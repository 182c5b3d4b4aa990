"""A shard: the thread that connects, reads, and performs what its session decides."""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag
from threading import Lock, Thread, current_thread

from msgspec import UNSET

from .actions import Action, Dial, Disconnect, Emit, Fail, Redial, SendHeartbeat, SendIdentify, SendResume, State
from .connection import CLOSE_DEADLINE, ConnectFailed, Connection
from .dispatch import Routes
from .errors import FatalCloseError, ProtocolError
from .events import UNREADABLE, Event, decode_json, envelope_decoder
from .handshake import heartbeat, identify, resume, with_query
from .limits import IdentifyTicket, SendBudget
from .opcodes import Opcode
from .outbox import Outbox
from .session import CLOSE_FOR_GOOD, CLOSE_RESUMABLE, Session
from .sessions import StoredSession
from .stats import ShardStats
from .wiring import Wiring

logger = logging.getLogger(__name__)

#: Event types counted apart; a server that invents names must not fill our memory.
MOST_TYPES = 1000

#: How soon a heartbeat that met a busy lock, or bytes the kernel did not take, are tried again, seconds.
RETRY = 0.005
RETRY_FLUSH = 0.05

#: Back-off after an unexpected error, seconds.
AFTER_ERROR = 5.0

#: Dispatches that the session must see.
SESSION_EVENTS = frozenset({"READY", "RESUMED"})


def tally(types: "Counter[str | None]", batch: Sequence[Event]) -> None:
    """Count the events of a batch by type."""
    if len(types) < MOST_TYPES:
        types.update([event.type for event in batch])
    else:
        types.update([event.type if event.type in types else "OTHER" for event in batch])


class Shard:
    """One shard of a gateway: read ``state``, ``latency``, ``session_id``, ``sequence`` from any thread.

    ``id`` is its number, ``count`` how many shards the bot has. ``gateway.shards`` has those that run here.
    """

    def __init__(self, shard_id: int, shard_count: int, wiring: Wiring) -> None:
        self.id = shard_id
        self.count = shard_count
        self.session = Session(shard_id, shard_count)
        #: Events decoded and wanted, connections made, Resumes that succeeded.
        self.events = self.connects = self.resumes = 0
        #: The sequence up to which every event has reached its consumers' queues.
        self.dealt: int | None = None
        self._wiring = wiring
        #: Events by type, while somebody measures.
        self.types: Counter[str | None] = Counter()
        #: Bytes received and inflated on connections that are over, and the one that is not: read as one, so that
        #: a look at the moment when it ends counts its bytes, and once.
        self._bytes: tuple[int, int, Connection | None] = (0, 0, None)
        #: Guards the session. Held to decide, never while sending, delivering, or running user code.
        self._lock = Lock()
        self._decoder = envelope_decoder()
        self._connection: Connection | None = None
        self._ticket: IdentifyTicket | None = None
        self._thread: Thread | None = None
        self._stopping = Flag()
        #: Stop waiting for consumers as well: what is not dealt yet stays unhandled.
        self._abandoning = False
        #: The close code to leave with, and by when the server must have answered our close frame.
        self._close_code = CLOSE_FOR_GOOD
        self._leave_by: float | None = None
        #: A heartbeat that met a busy lock.
        self._unsent: bytes | None = None
        #: Commands that wait for the session or for the budget of the connection.
        self.outbox = Outbox(shard_id)
        self._budget: SendBudget | None = None

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
        self._debug("waiting for an identify")
        if self._stopping.is_set() or not self._ticket.wait(self._stopping):
            return False
        with self._lock:
            self.session.state = State.CONNECTING
        return True

    def _release_ticket(self) -> None:
        if self._ticket is not None:
            self._ticket.release()
            self._ticket = None

    def _open(self, connection: Connection, dial: Dial) -> list[Action] | None:
        """Dial. None when connected, else what the session makes of the failure."""
        url = dial.url
        self._debug("dialling, to %s", "resume" if dial.resume else "identify")
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
                logger.warning("shard %d: %s", self.id, error, extra={"shard": self.id})
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
                self._publish([Event.create(action.type, action.data, self.id)])
            elif isinstance(action, Fail):
                self._wiring.host.shard_failed(self.id, action.error)
                return None
            elif isinstance(action, Redial):
                delay = action.delay
                self._debug("next connection in %.1f s", delay)
        return None if self._stopping.is_set() else delay

    # ---------------------------------------------------------------- reading

    def _read(self, connection: Connection) -> str | None:
        """Read until the connection is over. What was wrong with the stream, None when nothing was."""
        session, hub = self.session, self._wiring.hub
        link = session.link
        assert link is not None
        try:
            while (payloads := connection.receive()) is not None:
                if not payloads:
                    continue
                link.last_received = time.monotonic()
                if link.verdict is not None or self._stopping.is_set():
                    continue  # leaving: what still comes is replayed, or of no interest
                batch: list[Event] = []
                try:
                    self._decode(payloads, hub.routes, batch)
                finally:
                    # Also what came before a payload that is broken: its sequence is counted as received.
                    self.events += len(batch)
                    if hub.measured:
                        tally(self.types, batch)
                    if not batch or self._publish(batch):
                        self.dealt = session.sequence
        except ProtocolError as error:
            logger.warning("shard %d: %s", self.id, error, extra={"shard": self.id})
            with self._lock:
                actions = session.protocol_broken(str(error))
            self._perform(actions)
            return str(error)
        return None

    def _decode(self, payloads: Sequence[bytes], routes: Routes, batch: list[Event]) -> None:
        """The hot path: add the events somebody wants to ``batch``. What the session must see, it sees in order."""
        decode, session, shard_id = self._decoder.decode, self.session, self.id
        for payload in payloads:
            try:
                event = decode(payload)
            except UNREADABLE as error:
                raise ProtocolError(f"payload that is no gateway envelope: {error}") from error
            if event.op == 0:
                type = event.type
                if type in SESSION_EVENTS:
                    batch += self._session_event(event, payload, routes)
                    continue
                sequence = event.sequence
                if sequence is not None:
                    session.sequence = sequence
                if routes[type] is not None:
                    event.shard_id = shard_id
                    event.size = len(payload)
                    event.cache = UNSET
                    batch.append(event)
            else:
                batch += self._control(event)
                if self._leave_by is not None:
                    return  # what follows is not counted as received: the next connection replays it

    def _session_event(self, event: Event, payload: bytes, routes: Routes) -> list[Event]:
        event.shard_id, event.size, event.cache = self.id, len(payload), UNSET
        emitted = self._control(event)
        if event.type == "RESUMED":
            self.resumes += 1
        self._wiring.host.session_changed()
        self._release_ticket()
        if self._connection is not None and self._budget is not None and self.session.state is State.READY:
            self.outbox.open(self._connection, self._budget)
        return [event, *emitted] if routes[event.type] is not None else emitted

    def _control(self, event: Event) -> list[Event]:
        """Let the session see a payload, do what it says; the life events that came of it."""
        try:
            data = decode_json(event.payload)
        except UNREADABLE as error:
            raise ProtocolError(f"op {event.op} with data that is no JSON: {error}") from error
        with self._lock:
            actions = self.session.receive(event.op, data, time.monotonic(), event.type, event.sequence)
            if event.type == "READY":
                self.dealt = self.session.floor
        emitted = self._perform(actions)
        self._schedule()
        if event.op == Opcode.HEARTBEAT_ACK and self.latency is not None:
            self._debug("heartbeat acknowledged after %.0f ms", self.latency * 1000)
        return emitted

    def _debug(self, text: str, *values: object) -> None:
        """Never on the timer thread, where a slow log would delay the beats of every shard."""
        logger.debug(f"shard %d: {text}", self.id, *values, extra={"shard": self.id})

    def _debug_life(self, emit: Emit) -> None:
        # With the session id and the token anyone could take the session over: half of that is enough to keep back.
        details = {key: value for key, value in emit.data.items() if key != "session_id"}
        self._debug("%s %s", emit.type.removeprefix("SHARD_").lower(), details)

    def _publish(self, batch: list[Event]) -> bool:
        return self._wiring.hub.publish(batch, self)

    def cancelled(self) -> bool:
        """The hub asks: stop waiting for consumers?"""
        return self._abandoning

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """The hub waits for consumers: the socket is not read, and missing acks mean nothing."""
        with self._lock:
            self.session.blocked = True
        try:
            yield
        finally:
            with self._lock:
                self.session.unblocked(time.monotonic())
            self._schedule()

    # ---------------------------------------------------------------- performing

    def _perform(self, actions: list[Action]) -> list[Event]:
        """Do what the session decided on the shard's own thread; the events to publish."""
        emitted: list[Event] = []
        for action in actions:
            if isinstance(action, Emit):
                self._debug_life(action)
                emitted.append(Event.create(action.type, action.data, self.id))
            elif isinstance(action, SendHeartbeat):
                self._send(heartbeat(action.sequence))
            elif isinstance(action, SendIdentify):
                self._debug("identifying")
                self._identify()
            elif isinstance(action, SendResume):
                self._debug("resuming after %d", action.sequence)
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
        logger.info("shard %d: leaving: %s", self.id, action.why, extra={"shard": self.id})
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
