"""A TCP or TLS byte stream that one thread reads while others write.

Two facts shape it. A thread in ``SSLSocket.recv`` and another in ``send`` share OpenSSL state without a lock and
break it; so TLS runs on memory buffers: the raw socket blocks outside every lock, the SSL object is touched only
under one. And a heartbeat may never wait for a socket: writes never block, what the kernel does not take stays in
an outbox, and how long it has been there is the sign of a dead link.
"""

import contextlib
import socket
import ssl
import time
from threading import Lock

#: Bytes asked of the kernel at once; a batch of some 200 compressed events.
RECEIVE_SIZE = 32 * 1024

#: Writes must not block (where the platform has no such flag, they may, for as long as the peer's window is shut).
DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


class Transport:
    """Plain TCP. While connecting every operation is bounded by ``deadline``; ``established`` ends that.

    ``recv``, ``send``, ``gettimeout`` and ``settimeout`` are what websocket-client's handshake calls; after it,
    one thread calls ``read``, any thread ``write`` and ``shutdown``, and the reading thread ``close``.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._outbox = bytearray()
        self._write_lock = Lock()
        #: Monotonic time since when bytes wait for the kernel; None when none do.
        self.pending_since: float | None = None
        #: A write has failed: nothing more gets through.
        self.broken = False

    # ---------------------------------------------------------------- while connecting

    def recv(self, size: int) -> bytes:
        self._sock.settimeout(self._remaining())
        return self._sock.recv(size)

    def send(self, data: bytes) -> int:
        self._sock.settimeout(self._remaining())
        self._sock.sendall(data)
        return len(data)

    def gettimeout(self) -> float:
        return self._remaining()

    def settimeout(self, timeout: float | None) -> None:
        """The deadline rules; what the handshake code sets is ignored."""

    def established(self) -> None:
        """The handshake is over: reads block until something comes."""
        self._sock.settimeout(None)

    def _remaining(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        return remaining

    # ---------------------------------------------------------------- afterwards

    def read(self, size: int = RECEIVE_SIZE, *, wait: bool = True) -> bytes | None:
        """What has arrived, at least one byte; empty at the end of the stream, however it ended.

        None: nothing yet, and it was not to ``wait``. A reset takes nothing back: the kernel gives what came before
        it first, and that may be the close frame.
        """
        try:
            return self._sock.recv(size, 0 if wait else DONT_WAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def write(self, data: bytes, *, wait: bool = True) -> bool:
        """Queue ``data`` and give the kernel what it takes. False: broken, or not ``wait`` and a lock was busy."""
        if not self._write_lock.acquire(blocking=wait):
            return False
        try:
            self._outbox += data
            self._flush()
        finally:
            self._write_lock.release()
        return not self.broken

    def flush(self) -> None:
        """Try again to get rid of the outbox. Never waits."""
        if self._write_lock.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._write_lock.release()

    def _flush(self) -> None:
        while self._outbox:
            try:
                sent = self._sock.send(self._outbox, DONT_WAIT)
            except BlockingIOError:
                if self.pending_since is None:
                    self.pending_since = time.monotonic()
                return
            except OSError:
                # The reader finds out, and finds the close frame too if there is one.
                self.broken = True
                self._outbox.clear()
                break
            del self._outbox[:sent]
        self.pending_since = None

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def shutdown(self) -> None:
        """End both directions: wakes the reader. Any thread, any time."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.shutdown()
        self._sock.close()


class TLSTransport(Transport):
    """TLS over memory buffers. Certificates and host names are checked by the given context.

    Without a ``hostname`` it is the server's side.
    """

    def __init__(self, sock: socket.socket, deadline: float, context: ssl.SSLContext, hostname: str | None) -> None:
        super().__init__(sock, deadline)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=hostname is None, server_hostname=hostname
        )
        self._tls_lock = Lock()
        #: TLS itself has ended, by a close_notify or a record that is not authentic; the TCP stream may go on.
        self._ended = False
        self._handshake()

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._exchange()
            except ssl.SSLError:
                self._send_outgoing()  # the alert that tells the server why
                raise
        self._send_outgoing()

    def _exchange(self) -> None:
        self._send_outgoing()
        data = super().recv(RECEIVE_SIZE)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _send_outgoing(self) -> None:
        if self._outgoing.pending:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                super().send(self._outgoing.read())

    def recv(self, size: int) -> bytes:
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._exchange()
            except ssl.SSLZeroReturnError:
                return b""

    def send(self, data: bytes) -> int:
        self._tls.write(data)
        self._send_outgoing()
        return len(data)

    def read(self, size: int = RECEIVE_SIZE, *, wait: bool = True) -> bytes | None:
        parts: list[bytes] = []
        if self._incoming.pending or self._tls.pending():  # left over from the handshake
            self._decrypt(parts)
        while not parts and not self._ended:
            data = super().read(size, wait=wait)
            if not data:
                return data
            with self._tls_lock:
                self._incoming.write(data)
            self._decrypt(parts)
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def _decrypt(self, parts: list[bytes]) -> None:
        """Decrypt what is there. The lock is let go between records, for a heartbeat to slip in."""
        while not self._ended:
            with self._tls_lock:
                try:
                    part = self._tls.read(RECEIVE_SIZE)
                except ssl.SSLWantReadError:
                    self._encrypted()
                    return
                except ssl.SSLError:
                    part = b""
            if part:
                parts.append(part)
            else:
                self._ended = True

    def _encrypted(self) -> None:
        """Pass on what TLS itself has to say (key updates). The TLS lock is held, so the order is kept."""
        if self._outgoing.pending:
            super().write(self._outgoing.read())

    def write(self, data: bytes, *, wait: bool = True) -> bool:
        if not self._tls_lock.acquire(blocking=wait):
            return False
        try:
            self._tls.write(data)
            # Never left behind half way: once encrypted the record must go out, in this order.
            return super().write(self._outgoing.read())
        except ssl.SSLError:
            self.broken = True  # closed by the peer; the reader finds out
            return False
        finally:
            self._tls_lock.release()


def dial(host: str, port: int, deadline: float, watch: "list[socket.socket]") -> socket.socket:
    """Connect to the first address of ``host`` that answers, within ``deadline`` (monotonic seconds).

    Every address gets its share of the time, so that one which never answers does not use it up. The socket
    being tried is kept in ``watch``, for another thread to shut it down. Raises OSError.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError | None = None
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        watch[:] = [sock]
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(remaining / (len(addresses) - index))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure or TimeoutError("timed out")
