"""What a shard hears: payloads to events, and to its session what that must see. The hot path."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag

from msgspec import UNSET

from .actions import State
from .connection import Connection
from .dispatch import Rest, Routes
from .errors import ProtocolError
from .events import UNREADABLE, Event, decode_json, envelope_decoder
from .opcodes import Opcode
from .sending import Sending
from .wiring import Wiring

#: Event types counted apart; a server that invents names must not fill our memory.
MOST_TYPES = 1000

#: Dispatches that the session must see.
SESSION_EVENTS = frozenset({"READY", "RESUMED"})


def tally(types: "Counter[str | None]", batch: Sequence[Event]) -> None:
    """Count the events of a batch by type."""
    if len(types) < MOST_TYPES:
        types.update([event.type for event in batch])
    else:
        types.update([event.type if event.type in types else "OTHER" for event in batch])


class Receiving(Sending):
    """A shard's reading side."""

    def __init__(self, shard_id: int, shard_count: int, wiring: Wiring) -> None:
        super().__init__(shard_id, shard_count, wiring)
        #: Events decoded and wanted, and Resumes that succeeded.
        self.events = self.resumes = 0
        #: Events by type, while somebody measures.
        self.types: Counter[str | None] = Counter()
        #: The sequence up to which every event has reached its consumers' queues.
        self.dealt: int | None = None
        self._decoder = envelope_decoder()
        self._stopping = Flag()
        #: Stop waiting for consumers as well: what is not dealt yet stays unhandled.
        self._abandoning = False
        #: What a receive left to the shard's own thread: consumers without room, payloads, an error.
        self._rest: Rest = []
        self._untaken: Sequence[bytes] = ()
        self._fault: BaseException | None = None
        #: The connection is neither over nor broken.
        self._going = False

    # ---------------------------------------------------------------- reading

    def _read(self, connection: Connection) -> str | None:
        """Read until the connection is over. What was wrong with the stream, None when nothing was."""
        watch = self._wiring.watch
        self._going = settled = True
        self._untaken, self._rest = (), []
        watch.join()
        try:
            while self._going:
                if settled and watch.worthwhile and self._at_rest(connection):
                    watch.stand(self)
                if self._going and not self._rest:
                    self._advance(connection, wait=True)
                settled = not self._rest
                if not settled:
                    self._deliver_rest()
        finally:
            watch.leave()
            fault, self._fault = self._fault, None
        return self._explain(fault)

    def _explain(self, fault: BaseException | None) -> str | None:
        """What ended the reading, for the session. An error that is no fault of the stream is raised."""
        if fault is None:
            return None
        if not isinstance(fault, ProtocolError):
            raise fault
        self._log(logging.WARNING, "%s", fault)
        with self._lock:
            actions = self.session.protocol_broken(str(fault))
        self._perform(actions)
        return str(fault)

    def _at_rest(self, connection: Connection) -> bool:
        """Whether another shard's thread may read for this one: nothing begins or ends, and no user code runs."""
        return (
            self.session.state is State.READY
            and not self._leaving(connection)
            and not self._wiring.hub.routes.user_code
        )

    def _leaving(self, connection: Connection) -> bool:
        return self._leave_by is not None or connection.close_frame is not None

    def fileno(self) -> int:
        """The descriptor of the socket that is being read."""
        assert self._connection is not None
        return self._connection.fileno()

    def step(self) -> bool:
        """One receive, on the thread that leads the watch. False: what there is to do is for the shard's own."""
        connection = self._connection
        assert connection is not None  # the thread that closes it stands in line
        self._advance(connection, wait=False)
        return self._going and not self._rest and not self._untaken and not self._leaving(connection)

    def _advance(self, connection: Connection, *, wait: bool) -> None:
        """Take what one receive brings, or what a step has left."""
        try:
            payloads = self._untaken or connection.receive(wait=wait)
            self._untaken = ()
            if payloads is None:
                self._going = False
            elif payloads:
                self._take(payloads, own=wait)
        except BaseException as error:  # it belongs to the shard's own thread, which may not be this one
            self._fault, self._going = error, False

    def _take(self, payloads: Sequence[bytes], *, own: bool) -> None:
        """Payloads to events, and these to whom they are for; what consumers had no room for stays in ``_rest``.

        ``own``: on the shard's own thread, which alone runs functions of the user's.
        """
        session, hub = self.session, self._wiring.hub
        routes = hub.routes
        if routes.user_code and not own:  # since a moment ago
            self._untaken = payloads
            return
        link = session.link
        assert link is not None
        link.last_received = time.monotonic()
        if link.verdict is not None or self._stopping.is_set():
            return  # leaving: what still comes is replayed, or of no interest
        batch: list[Event] = []
        try:
            self._decode(payloads, routes, batch)
        finally:
            # Also what came before a payload that is broken: its sequence is counted as received.
            self.events += len(batch)
            if hub.measured:
                tally(self.types, batch)
            if batch:
                self._rest = hub.offer(batch, routes)
            if not self._rest:
                self.dealt = session.sequence

    def _deliver_rest(self) -> None:
        """Wait for the consumers that are full. The shard's own thread."""
        rest, self._rest = self._rest, []
        if self._wiring.hub.deliver(rest, self):
            self.dealt = self.session.sequence

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
        if event.op == Opcode.HEARTBEAT_ACK and self.session.latency is not None:
            self._log(logging.DEBUG, "heartbeat acknowledged after %.0f ms", self.session.latency * 1000)
        return emitted

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
