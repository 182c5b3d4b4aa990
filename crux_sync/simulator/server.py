"""Threads and sockets around the core: an accept loop, and a reader and a writer for each connection.

The reader never waits for the writer: a client that does not read still has its heartbeats heard, and feels the
push-back of TCP. Both drive one sans-I/O ``ServerProtocol`` of websockets under a lock that is never held while
a socket blocks. HTTP of any method is answered on the same port.
"""

import contextlib
import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from websockets.frames import Frame
from websockets.frames import Opcode as FrameOpcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from ..transport import TLSTransport, Transport
from .core import Close, Core, Output, Peer, Send
from .rest import Answer, Rest
from .wire import Encoder

logger = logging.getLogger(__name__)

#: websockets would log every frame at DEBUG, and frames hold tokens.
silent = logging.getLogger(f"{__name__}.frames")
silent.disabled = True

#: A request head that is longer is no client of ours, bytes.
LONGEST_HEAD = 64 * 1024

#: TLS handshake and request head must be done in this many seconds.
HANDSHAKE_DEADLINE = 20.0

#: After our close frame the client may answer this long, seconds.
CLOSE_DEADLINE = 2.0

#: Payloads that one write takes together.
TOGETHER = 256

#: Payloads that wait for one client; a replay without pauses goes on when there are fewer.
FULL = 4096

#: A request body that is longer is no bot's message, bytes.
LONGEST_BODY = 1024 * 1024

STATUS_TEXT = {
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
}


class Link:
    """One accepted socket."""

    def __init__(self, server: "Server", sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.transport: Transport | None = None
        self.peer: Peer | None = None
        self.encoder = Encoder(None)
        self.protocol = ServerProtocol(max_size=1 << 20, logger=silent)
        self.protocol_lock = threading.Lock()
        self.outbox: deque[Send | Close | bytes] = deque()
        self.ready = threading.Condition()
        self.closing = False
        #: READY, or RESUMED and what is replayed before it, has been given to the kernel.
        self.greeted = False
        #: Faults.
        self.half_open = threading.Event()
        self.resetting = False
        self.hushed = False
        self.close_code: int | None = None
        self.threads = [
            threading.Thread(target=self._read, name="crux-sim-reader", daemon=True),
            threading.Thread(target=self._write, name="crux-sim-writer", daemon=True),
        ]

    def start(self) -> None:
        self.threads[0].start()

    # ---------------------------------------------------------------- reading

    def _read(self) -> None:
        try:
            transport = self._open()
            head = self._read_head(transport)
            if head:
                self._serve(transport, head)
        except (OSError, ssl.SSLError, ValueError) as error:
            logger.debug("connection ended: %s", type(error).__name__)
        finally:
            self._ended()

    def _open(self) -> Transport:
        deadline = time.monotonic() + HANDSHAKE_DEADLINE
        context = self.server.tls_context
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = (
            Transport(self.sock, deadline) if context is None else TLSTransport(self.sock, deadline, context, None)
        )
        self.transport = transport
        return transport

    def _read_head(self, transport: Transport) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head:
            data = transport.recv(LONGEST_HEAD)
            head += data
            if not data or len(head) > LONGEST_HEAD:
                return b""
        return head

    def _read_body(self, transport: Transport, head: bytes, headers: dict[str, str]) -> bytes:
        body = head.split(b"\r\n\r\n", 1)[1]
        length = min(max(int(headers.get("content-length", "0")), 0), LONGEST_BODY)
        while len(body) < length:
            data = transport.recv(LONGEST_HEAD)
            if not data:
                break
            body += data
        return body[:length]

    def _serve(self, transport: Transport, head: bytes) -> None:
        method, target, headers = parse_head(head)
        if headers.get("upgrade", "").lower() != "websocket":
            body = self._read_body(transport, head, headers)
            self._answer(transport, self.server.http(method, target, headers, body))
            return
        refusal = self.server.refuse_upgrade()
        if refusal is not None:
            self._answer(transport, refusal)
            return
        self.protocol.receive_data(head)
        (request,) = self.protocol.events_received()
        assert isinstance(request, Request)
        self.protocol.send_response(self.protocol.accept(request))
        transport.send(b"".join(self.protocol.data_to_send()))
        transport.established()
        query = dict(parse_qsl(urlsplit(target).query))
        self.encoder = Encoder(
            query.get("compress") if query.get("compress") in ("zlib-stream", "zstd-stream") else None
        )
        self.encoder.split = self.server.split
        self.threads[1].start()
        self.server.connected(self, query)
        self._read_frames(transport)

    def _answer(self, transport: Transport, answer: Answer) -> None:
        if answer.delay and self.server.stopped.wait(answer.delay):
            return
        lines = [f"HTTP/1.1 {answer.status} {STATUS_TEXT.get(answer.status, 'Answer')}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        lines += [f"Content-Length: {len(answer.body)}", "Connection: close", "", ""]
        transport.send("\r\n".join(lines).encode() + answer.body)
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def _read_frames(self, transport: Transport) -> None:
        fragments: list[bytes] = []
        while not self.half_open.is_set():
            data = transport.read()
            if self.half_open.is_set():
                break
            with self.protocol_lock:
                if data:
                    self.protocol.receive_data(data)
                else:
                    self.protocol.receive_eof()
                events = self.protocol.events_received()
                replies = b"".join(self.protocol.data_to_send())
            if replies:
                self.put([replies])
            for frame in events:
                assert isinstance(frame, Frame)
                self._frame(frame, fragments)
            if not data:
                return
        self.server.stopped.wait()

    def _frame(self, frame: Frame, fragments: list[bytes]) -> None:
        if frame.opcode in (FrameOpcode.TEXT, FrameOpcode.BINARY, FrameOpcode.CONT):
            fragments.append(bytes(frame.data))
            if frame.fin:
                message = b"".join(fragments)
                fragments.clear()
                self.server.received(self, message, text=frame.opcode is not FrameOpcode.BINARY)
        elif frame.opcode is FrameOpcode.CLOSE:
            self.close_code = int.from_bytes(frame.data[:2], "big") if len(frame.data) >= 2 else None
            self.server.disconnected(self)
            self.stop_writing()

    # ---------------------------------------------------------------- writing

    def put(self, items: Iterable[Send | Close | bytes]) -> None:
        with self.ready:
            if self.hushed:
                return
            self.outbox.extend(items)
            self.ready.notify()

    def stop_writing(self) -> None:
        """Write what is there, then end the connection."""
        with self.ready:
            self.closing = True
            self.ready.notify()

    def _write(self) -> None:
        assert self.transport is not None
        while True:
            with self.ready:
                self.ready.wait_for(lambda: self.outbox or self.closing)
                items = [self.outbox.popleft() for _ in range(min(len(self.outbox), TOGETHER))]
            if not items or self.half_open.is_set() or self.resetting:
                break
            data, last = self._encode(items)
            if not self._push(data):
                break
            if not self.greeted and self.peer is not None and self.peer.session is not None and not self.outbox:
                self._greeted()
            if last:
                # The client answers our close frame, or does not; then the socket goes.
                self.server.after(CLOSE_DEADLINE, self.transport.shutdown)
                return
        if not self.half_open.is_set() and not self.resetting:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
            self.server.after(CLOSE_DEADLINE, self.transport.shutdown)

    def _greeted(self) -> None:
        with self.server.changed:
            self.greeted = True
            self.server.changed.notify_all()

    def _encode(self, items: list[Send | Close | bytes]) -> tuple[bytes, bool]:
        """The bytes for ``items``; whether the last of them closes the connection."""
        parts: list[bytes] = []
        with self.protocol_lock:
            for item in items:
                if isinstance(item, bytes):
                    parts += [*self.protocol.data_to_send(), item]
                elif isinstance(item, Send):
                    self._send(item)
                elif item.code < 0:  # the end of the stream, without a close frame
                    return b"".join([*parts, *self.protocol.data_to_send()]), True
                else:
                    with contextlib.suppress(Exception):  # closed already, by the client
                        self.protocol.send_close(item.code or None, item.reason)
                    return b"".join([*parts, *self.protocol.data_to_send()]), True
            parts += self.protocol.data_to_send()
        return b"".join(parts), False

    def _send(self, item: Send) -> None:
        alone = item.peer.payload_compression and len(item.payload) > 1024
        for message in self.encoder.encode(item.payload, compress_alone=alone):
            send = self.protocol.send_text if message.text else self.protocol.send_binary
            with contextlib.suppress(Exception):  # InvalidState: the client has closed meanwhile
                send(message.data)

    def _push(self, data: bytes) -> bool:
        """Write and wait until the kernel has taken all of it; False when the connection is over."""
        transport = self.transport
        assert transport is not None
        transport.write(data)
        while transport.pending_since is not None:
            if self.closing or self.server.stopped.is_set():
                return False
            with contextlib.suppress(OSError, ValueError):
                select.select([], [self.sock], [], 0.2)
            transport.flush()
        return True

    def hush(self) -> None:
        """Write what is there, and then nothing more; go on reading."""
        self.hushed = True

    # ---------------------------------------------------------------- ending

    def reset(self) -> None:
        """TCP reset: no FIN, and whatever is not sent yet is lost."""
        self.resetting = True
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.shutdown(socket.SHUT_RD)  # wakes the reader, sends nothing; its close() sends the reset
        self.half_open.clear()
        self.stop_writing()

    def cut(self) -> None:
        self.half_open.clear()
        if self.transport is not None:
            self.transport.shutdown()
        else:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        self.stop_writing()

    def _ended(self) -> None:
        self.server.disconnected(self)
        self.stop_writing()
        if self.threads[1].ident is not None:
            self.threads[1].join()
        self.sock.close()
        self.server.forget(self)


class Server:
    """Accepts, and holds the one lock around the core."""

    def __init__(self, core: Core, rest: Rest, host: str, port: int, tls_context: ssl.SSLContext | None) -> None:
        self.core = core
        self.rest = rest
        self.tls_context = tls_context
        self.stopped = threading.Event()
        #: Notified whenever something happened; also the lock around the core.
        self.changed = threading.Condition(threading.RLock())
        #: Faults for new connections: cut payloads into this many messages; refuse upgrades with these answers.
        self.split = 1
        self.upgrade_refusals: deque[Answer] = deque()
        self._links: dict[Peer, Link] = {}
        self._all_links: set[Link] = set()
        self._listener = socket.create_server((host, port), backlog=512)
        self.host, self.port = self._listener.getsockname()[:2]
        self._accepting = threading.Thread(target=self._accept, name="crux-sim-accept", daemon=True)
        self._timer = threading.Thread(target=self._tick, name="crux-sim-timer", daemon=True)
        self._timed: list[tuple[float, Any]] = []

    def start(self) -> None:
        self._accepting.start()
        self._timer.start()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            link = Link(self, sock)
            with self.changed:
                if self.stopped.is_set():
                    sock.close()
                    return
                self._all_links.add(link)
            link.start()

    # ---------------------------------------------------------------- what links report

    def http(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        with self.changed:
            answer = self.rest.answer(method, target, headers, time.monotonic(), body)
            for name, data in answer.events:
                self.perform(self.core.dispatch(name, data, time.monotonic()))
            self.changed.notify_all()
            return answer

    def refuse_upgrade(self) -> Answer | None:
        with self.changed:
            return self.upgrade_refusals.popleft() if self.upgrade_refusals else None

    def connected(self, link: Link, query: dict[str, str]) -> None:
        with self.changed:
            peer, outputs = self.core.connect(query, time.monotonic())
            link.peer = peer
            self._links[peer] = link
            self.perform(outputs)
            delay = self.core.hello_delay
            if peer.state != "closed" and delay is not None:
                if delay:
                    self.after(delay, lambda: self.perform(self.core.hello(peer)))
                else:
                    self.perform(self.core.hello(peer))
            self.changed.notify_all()

    def received(self, link: Link, message: bytes, *, text: bool) -> None:
        with self.changed:
            if link.peer is None:
                return
            outputs = self.core.receive(link.peer, message, time.monotonic(), text=text)
            delay = self.core.ready_delay
            if delay is None and any(b'"READY"' in one.payload[:20] for one in outputs if isinstance(one, Send)):
                outputs = []
            elif delay and any(b'"READY"' in one.payload[:20] for one in outputs if isinstance(one, Send)):
                late = outputs
                self.after(delay, lambda: self.perform(late))
                outputs = []
            self.perform(outputs)
            self.changed.notify_all()

    def disconnected(self, link: Link) -> None:
        with self.changed:
            if link.peer is not None:
                self.core.disconnected(link.peer, link.close_code, time.monotonic())
                self._links.pop(link.peer, None)
            self.changed.notify_all()

    def forget(self, link: Link) -> None:
        with self.changed:
            self._all_links.discard(link)
            self.changed.notify_all()

    def perform(self, outputs: list[Output]) -> None:
        """Hand outputs to their writers. Call with the lock held, so that each connection gets them in order."""
        by_peer: dict[Peer, list[Output]] = {}
        for output in outputs:
            by_peer.setdefault(output.peer, []).append(output)
        for peer, items in by_peer.items():
            link = self._links.get(peer)
            if link is not None:
                link.put(items)

    def has_room(self) -> bool:
        """Whether no client is so far behind that more for it had better wait."""
        return all(len(link.outbox) < FULL for link in list(self._links.values()))

    def idle(self) -> bool:
        """Whether every connection is over. Call with the lock held."""
        return not self._all_links

    def link_of(self, peer: Peer) -> Link | None:
        return self._links.get(peer)

    # ---------------------------------------------------------------- time

    def after(self, delay: float, function: Any) -> None:
        """Call ``function`` on the timer thread after ``delay`` seconds, with the lock held."""
        with self.changed:
            self._timed.append((time.monotonic() + delay, function))
            self.changed.notify_all()

    def _tick(self) -> None:
        with self.changed:
            while not self.stopped.is_set():
                now = time.monotonic()
                due = [one for one in self._timed if one[0] <= now]
                self._timed = [one for one in self._timed if one[0] > now]
                for _, function in due:
                    with contextlib.suppress(OSError):
                        function()
                self.perform(self.core.tick(now))
                # Late heartbeats are looked for at a twentieth of the interval: the tolerance is half of one.
                pause = min(self.core.settings.heartbeat_interval / 20, 0.5)
                nearest = min((when for when, _ in self._timed), default=now + pause)
                deadline = min(nearest, now + pause)
                while not self.stopped.is_set() and time.monotonic() < deadline:
                    self.changed.wait(deadline - time.monotonic())
                    if self._timed and min(when for when, _ in self._timed) < deadline:
                        break

    def close(self) -> None:
        """Cut every connection and join every thread."""
        self.stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self.changed:
            self.changed.notify_all()
            links = list(self._all_links)
        for link in links:
            link.cut()
        for link in links:
            link.threads[0].join(5.0)
        for thread in (self._accepting, self._timer):
            if thread.ident is not None:
                thread.join(5.0)


def parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, target, headers (names in lower case). Raises ValueError."""
    lines = head.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
    return method, target, {name.strip().lower(): value.strip() for name, value in pairs}
