"""Trouble on demand: each fault a method of the simulator (protocol, section 17.9). Any thread may call them."""

import math
import time
from collections.abc import Callable

from ..opcodes import Opcode
from .core import Close, Core, Peer, Send, control
from .rest import Answer, Rest, as_json, rate_limited
from .server import Link, Server

now = time.monotonic


class Faults:
    """Faults of the connections of a shard, and of what comes next."""

    _core: Core
    _rest: Rest
    _server: Server

    # ---------------------------------------------------------------- faults of a connection

    def close_connection(self, shard_id: int = 0, code: int = 4000, reason: str = "") -> None:
        """Close with any code; 0: a close frame without a code."""
        self._each(shard_id, lambda peer, link: self._server.perform(self._core.close(peer, code, reason, now())))

    def end_connection(self, shard_id: int = 0) -> None:
        """End the TCP stream in order, without a close frame."""
        self._each(shard_id, lambda peer, link: link.put([Close(peer, -1, "")]))

    def drop(self, shard_id: int = 0) -> None:
        """TCP reset."""
        self._each(shard_id, lambda peer, link: link.reset())

    def half_open(self, shard_id: int = 0) -> None:
        """From now on read nothing and send nothing, but keep the connection."""

        def act(peer: Peer, link: Link) -> None:
            peer.last_beat = math.inf  # beats that are not read are not late
            link.half_open.set()

        self._each(shard_id, act)

    def reconnect(self, shard_id: int = 0) -> None:
        """Op 7."""
        self.send(shard_id, control(Opcode.RECONNECT))

    def invalidate(self, shard_id: int = 0, resumable: bool = False) -> None:
        """Op 9; without ``resumable`` the session ends."""

        def act(peer: Peer, link: Link) -> None:
            session = peer.session
            if session is not None:
                if not resumable:
                    self._core.store.end(session)
                else:
                    self._core.store.detach(session, now())
                peer.session, peer.state = None, "hello"
            link.put([Send(peer, control(Opcode.INVALID_SESSION, b"true" if resumable else b"false"))])

        self._each(shard_id, act)

    def stop_acks(self, shard_id: int = 0) -> None:
        """Answer no more heartbeats on the present connection."""

        def act(peer: Peer, link: Link) -> None:
            peer.swallow_acks = True

        self._each(shard_id, act)

    def request_heartbeat(self, shard_id: int = 0) -> None:
        """Op 1."""
        self.send(shard_id, control(Opcode.HEARTBEAT))

    def send(self, shard_id: int, payload: bytes) -> None:
        """Any payload, such as an unknown opcode or invalid JSON; compressed as the connection asks, not logged."""
        self._each(shard_id, lambda peer, link: link.put([Send(peer, payload)]))

    def send_raw(self, shard_id: int, data: bytes) -> None:
        """Any bytes, past WebSocket and compression: garbage, half a frame (a stall in mid-frame), bad frames."""
        self._each(shard_id, lambda peer, link: link.put([data]))

    def send_message(self, shard_id: int, data: bytes) -> None:
        """Any binary message, past the compression: a truncated deflate stream, say."""
        length = len(data)
        head = bytes([0x82, length]) if length < 126 else b"\x82\x7e" + length.to_bytes(2, "big")
        self.send_raw(shard_id, head + data)

    def stall(self, shard_id: int = 0) -> None:
        """Send half a frame, and then nothing more on this connection."""
        self.send_raw(shard_id, b"\x82\x7e\x10\x00" + bytes(100))
        self._each(shard_id, lambda peer, link: link.hush())

    def garbage(self, shard_id: int = 0) -> None:
        """Bytes that are no WebSocket frame."""
        self.send_raw(shard_id, b"\xff\xff garbage")

    def truncate_deflate(self, shard_id: int = 0) -> None:
        """A message that ends like a compressed payload and is none."""
        self.send_message(shard_id, b"\x07 cut short \x00\x00\xff\xff")

    def invalid_json(self, shard_id: int = 0) -> None:
        """A payload that ends in the middle."""
        self.send(shard_id, b'{"op":0,"d":{')

    def dispatch_raw(self, shard_id: int, name: str, data: bytes) -> None:
        """A dispatch with ``d`` as these bytes, numbered and logged: an array, invalid UTF-8, anything."""
        with self._server.changed:
            outputs = []
            for session in self._core.store.of_shard(shard_id):
                payload = session.append(name, data, now())
                if session.peer is not None:
                    outputs.append(Send(session.peer, payload))
            self._server.perform(list(outputs))

    def invalid_utf8(self, shard_id: int = 0, name: str = "MESSAGE_CREATE") -> None:
        """A dispatch with a string that is no UTF-8."""
        self.dispatch_raw(shard_id, name, b'{"guild_id":"1","content":"\xff\xfe"}')

    def unknown_opcode(self, shard_id: int = 0, op: int = 99) -> None:
        """A payload with an opcode that no documentation knows."""
        self.send(shard_id, b'{"t":null,"s":null,"op":%d,"d":{}}' % op)

    def unknown_event(self, shard_id: int = 0, name: str = "SOMETHING_NEW") -> None:
        """A dispatch with a name that no documentation knows."""
        self.dispatch_raw(shard_id, name, b"{}")

    def array_data(self, shard_id: int = 0, name: str = "PRESENCES_REPLACE") -> None:
        """An event whose ``d`` is an array."""
        self.dispatch_raw(shard_id, name, b"[1,2,3]")

    def bare_envelope(self, shard_id: int = 0) -> None:
        """A heartbeat ack without ``s``, ``t`` and ``d``."""
        self.send(shard_id, b'{"op":11}')

    def large_message(self, shard_id: int = 0, size: int = 8_000_000) -> None:
        """A dispatch of this many bytes."""
        self.dispatch_raw(shard_id, "MESSAGE_CREATE", b'{"guild_id":"1","content":"%s"}' % (b"x" * size))

    def repeat(self, shard_id: int = 0) -> None:
        """Send the last dispatch of the session once more, with the same number."""
        self._each(
            shard_id,
            lambda peer, link: link.put([Send(peer, peer.session.events[-1].payload)] if peer.session else []),
        )

    def skip_sequence(self, shard_id: int = 0, count: int = 1) -> None:
        """Leave a gap in the numbers of the session."""
        with self._server.changed:
            for session in self._core.store.of_shard(shard_id):
                session.skip(count, now())

    def end_session(self, shard_id: int = 0) -> None:
        """Forget the session, as when it expires: the next Resume is answered with op 9."""
        with self._server.changed:
            for session in self._core.store.of_shard(shard_id):
                peer = session.peer
                self._core.store.end(session)
                if peer is not None:
                    peer.session = None

    def _each(self, shard_id: int, act: Callable[[Peer, Link], None]) -> None:
        """Do something to the connections of a shard."""
        with self._server.changed:
            for peer in [one for one in self._core.peers if one.shard_id == shard_id]:
                link = self._server.link_of(peer)
                if link is not None:
                    act(peer, link)
            self._server.changed.notify_all()

    # ---------------------------------------------------------------- faults of what comes next

    def split_messages(self, pieces: int) -> None:
        """Cut each zlib-stream payload of new connections into this many messages, also inside the suffix."""
        self._server.split = pieces

    def delay_hello(self, seconds: float | None) -> None:
        """On new connections Hello comes late; None: never."""
        self._core.hello_delay = seconds

    def delay_ready(self, seconds: float | None) -> None:
        """READY and all that follows come late; None: never."""
        self._core.ready_delay = seconds

    def before_hello(self, payload: bytes = control(Opcode.RECONNECT)) -> None:
        """The next connection gets this payload (default: op 7) before Hello."""
        with self._server.changed:
            self._core.before_hello.append(payload)

    def reconnect_in_replay(self, after: int = 1) -> None:
        """The next Resume is answered with ``after`` events of the replay, then op 7."""
        with self._server.changed:
            self._core.interrupt_replay = after

    def answer_resume(self, resumable: bool) -> None:
        """Answer the next Resume with op 9."""
        with self._server.changed:
            self._core.answer_resumes.append("true" if resumable else "false")

    def refuse_upgrade(self, status: int = 503) -> None:
        """Answer the next upgrade with an HTTP status."""
        with self._server.changed:
            self._server.upgrade_refusals.append(as_json(status, {"message": "refused", "code": 0}))

    def answer_http(self, status: int, body: object = None, *, delay: float = 0.0) -> None:
        """Answer the next REST request with this; ``body``: JSON, or bytes as they are."""
        answer = Answer(status, body) if isinstance(body, bytes) else as_json(status, body or {"message": "scripted"})
        with self._server.changed:
            self._rest.script.append(answer._replace(delay=delay))

    def rate_limit_http(self, retry_after: float, *, json_body: bool = True) -> None:
        """Answer the next REST request with 429, as JSON or as the edge's plain text."""
        with self._server.changed:
            self._rest.script.append(rate_limited(retry_after, json_body=json_body))
