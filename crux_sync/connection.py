"""One WebSocket connection to the gateway: connect, frames, compression. The only importer of websocket-client.

It does the URL, the proxy, the upgrade and outgoing frames; reading is ours (``frames``, ``inflate``).
"""

import contextlib
import ssl
import time
import urllib.request
from collections.abc import Callable, Sequence
from socket import socket as Socket
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import websocket

from .errors import ConfigurationError, CruxError
from .frames import MAX_MESSAGE, CloseFrame, FrameReader
from .inflate import create_inflater
from .transport import RECEIVE_SIZE, TLSTransport, Transport, dial
from .version import __version__

USER_AGENT = f"DiscordBot (https://github.com/crux-sync/crux_sync, {__version__})"

#: Deadline for TCP, TLS and the upgrade together, seconds.
CONNECT_DEADLINE = 20.0

#: How long to read on for the server's close frame after sending ours, seconds.
CLOSE_DEADLINE = 2.0

#: An inflate that takes this long (seconds; normally microseconds) waited for the GIL: another thread computes.
GIL_STALL = 0.001

#: Messages inflated one by one between two looks at the clock: so many stalls may pass before it is noticed.
PROBE = 16

#: After a stall, so many receives are inflated in batches before it is measured again: the more the longer stalls go
#: on, since each measurement costs some. The kernel, too, may have given the core to another process, just once.
BATCHED_RECEIVES = (4, 64)
#: Bytes asked for by a receive that will be inflated as a batch.
STALLED_RECEIVE_SIZE = 256 * 1024


class ConnectFailed(CruxError):
    """No connection was made. Internal: the shard backs off and tries again."""


class Connection:
    """Socket, frames and inflate context as one object: none outlives the others.

    One thread at a time opens, receives and closes; any thread may send and abort.
    """

    def __init__(
        self,
        compress: str | None = "zlib-stream",
        max_message: int = MAX_MESSAGE,
        permitted: Callable[[], bool] | None = None,
    ) -> None:
        self._permitted = permitted
        self._reader = FrameReader(max_message)
        self._inflater = create_inflater(compress, max_message)
        self._transport: Transport | None = None
        self._dialing: list[Socket] = []
        self._aborted = False
        self._batched_receives = 0
        self._patience = BATCHED_RECEIVES[0]
        #: Bytes received, and bytes after inflation.
        self.received_bytes = self.inflated_bytes = 0

    # ---------------------------------------------------------------- opening

    def open(self, url: str, *, ssl_context: ssl.SSLContext | None = None, proxy: str | None = None) -> None:
        """Connect and upgrade within CONNECT_DEADLINE. Raises ConnectFailed, with the cause."""
        deadline = time.monotonic() + CONNECT_DEADLINE
        try:
            self._transport = self._upgrade(url, deadline, ssl_context, proxy or environment_proxy(url))
        except websocket.WebSocketBadStatusException as error:
            raise ConnectFailed(f"{url} answered the upgrade with HTTP {error.status_code}") from error
        except (websocket.WebSocketException, OSError, ValueError) as error:
            raise ConnectFailed(f"{url} cannot be reached: {error or type(error).__name__}") from error
        finally:
            self._dialing.clear()
        if self._aborted:
            self._transport.shutdown()

    def _upgrade(self, url: str, deadline: float, ssl_context: ssl.SSLContext | None, proxy: str | None) -> Transport:
        wrapper = TLSWrapper(ssl_context, deadline)
        options: dict[str, Any] = {
            "header": [f"User-Agent: {USER_AGENT}"],
            "suppress_origin": True,
            # A redirect would carry the token to a host nobody named.
            "redirect_limit": 0,
        }
        if proxy:
            options |= proxy_options(proxy) | {"timeout": max(deadline - time.monotonic(), 0.001)}
        else:
            options["socket"] = self._dial(url, deadline, wrapper)
        client = websocket.WebSocket(sslopt={"context": wrapper}, enable_multithread=False)
        try:
            client.connect(url, **options)
            status = client.handshake_response.status
            if status != 101:
                raise websocket.WebSocketException(f"HTTP {status} instead of an upgrade")
        except BaseException:
            if "socket" in options:
                options["socket"].close()
            raise
        stream = client.sock
        transport = stream if isinstance(stream, Transport) else Transport(stream, deadline)
        transport.established()
        return transport

    def _dial(self, url: str, deadline: float, wrapper: "TLSWrapper") -> Transport:
        parts = urlsplit(url)
        secure = parts.scheme == "wss"
        host = parts.hostname or ""
        sock = dial(host, parts.port or (443 if secure else 80), deadline, self._dialing)
        if self._aborted:
            sock.close()
            raise ConnectionAbortedError("closed while connecting")
        try:
            return wrapper.wrap_socket(sock, server_hostname=host) if secure else Transport(sock, deadline)
        except BaseException:
            sock.close()
            raise

    @property
    def established(self) -> bool:
        """Whether the upgrade has succeeded."""
        return self._transport is not None

    # ---------------------------------------------------------------- receiving

    def fileno(self) -> int:
        """The socket's descriptor, of an established connection."""
        assert self._transport is not None
        return self._transport.fileno()

    def receive(self, *, wait: bool = True) -> Sequence[bytes] | None:
        """Take the bytes that have come, and ``wait`` for the first; the payloads they complete, perhaps none.

        None: the connection is over. Raises ProtocolError when the stream cannot be read on.
        """
        transport, reader = self._transport, self._reader
        if transport is None or reader.close is not None:
            return None
        data = transport.read(STALLED_RECEIVE_SIZE if self._batched_receives else RECEIVE_SIZE, wait=wait)
        if not data:
            return None if data is not None else ()
        self.received_bytes += len(data)
        messages = reader.feed(data)
        if reader.pings:
            self._answer_pings()
        if not messages:
            return messages
        payloads = self._inflate(messages)
        self.inflated_bytes += sum(map(len, payloads))
        return payloads

    def _inflate(self, messages: list[bytes]) -> Sequence[bytes]:
        """Per message while that is cheaper; in batches once getting the GIL back is seen to take long."""
        inflate = self._inflater.inflate
        if self._batched_receives:
            self._batched_receives -= 1
            return inflate(messages, batched=True)
        if len(messages) == 1:
            return inflate(messages)
        payloads: list[bytes] = []
        for start in range(0, len(messages), PROBE):
            began = perf_counter()
            payloads += inflate(messages[start : start + PROBE])
            if perf_counter() - began > GIL_STALL:
                self._batched_receives = self._patience
                self._patience = min(4 * self._patience, BATCHED_RECEIVES[1])
                payloads += inflate(messages[start + PROBE :], batched=True)
                return payloads
        self._patience = BATCHED_RECEIVES[0]
        return payloads

    @property
    def close_frame(self) -> CloseFrame | None:
        """What the server said when it closed; None while it has not."""
        return self._reader.close

    # ---------------------------------------------------------------- sending

    def send(self, payload: bytes, *, wait: bool = True) -> bool:
        """Send a text message. Never blocks on the socket. False: broken, or not ``wait`` and a lock was busy."""
        return self._send_frame(payload, websocket.ABNF.OPCODE_TEXT, wait=wait)

    def send_close(self, code: int) -> None:
        """Send a close frame. The reader goes on until the server has answered, or is aborted."""
        self._send_frame(code.to_bytes(2, "big"), websocket.ABNF.OPCODE_CLOSE)

    def _answer_pings(self) -> None:
        for ping in self._reader.pings:
            self._send_frame(ping, websocket.ABNF.OPCODE_PONG)
        self._reader.pings.clear()

    def _send_frame(self, payload: bytes, opcode: int, *, wait: bool = True) -> bool:
        transport = self._transport
        if transport is None:
            return False
        if self._permitted is not None and not self._permitted():
            self.abort()  # somebody else may be speaking for this shard by now
            return False
        frame = websocket.ABNF(1, 0, 0, 0, opcode, 1, payload)
        return transport.write(frame.format(), wait=wait)

    @property
    def broken(self) -> bool:
        """Whether a write has failed."""
        return self._transport is None or self._transport.broken

    @property
    def pending_since(self) -> float | None:
        """Monotonic time since when something sent waits for the kernel to take it."""
        return self._transport.pending_since if self._transport is not None else None

    def flush(self) -> None:
        """Push on what is pending. Never waits."""
        if self._transport is not None:
            self._transport.flush()

    # ---------------------------------------------------------------- ending

    def abort(self) -> None:
        """Cut the connection, or the attempt to make one. Any thread; wakes the reader."""
        self._aborted = True
        for sock in list(self._dialing):
            with contextlib.suppress(OSError):
                sock.shutdown(2)
        if self._transport is not None:
            self._transport.shutdown()

    def close(self) -> None:
        """Free the socket and the buffers. Only the thread that opened it."""
        self._aborted = True
        if self._transport is not None:
            self._transport.close()


class TLSWrapper:
    """Stands where websocket-client expects an SSLContext, and wraps sockets in our own TLS transport."""

    def __init__(self, context: ssl.SSLContext | None, deadline: float) -> None:
        self._context = context
        self._deadline = deadline

    def wrap_socket(self, sock: Socket, server_hostname: str = "", **ignored: Any) -> TLSTransport:
        context = self._context or default_ssl_context()
        return TLSTransport(sock, self._deadline, context, server_hostname)


def default_ssl_context() -> ssl.SSLContext:
    """Certificates and host names are verified; TLS 1.2 at least (protocol, section 1.2)."""
    global _default_context
    if _default_context is None:
        _default_context = ssl.create_default_context()
    return _default_context


#: Loading the system's certificates takes milliseconds and half a megabyte: once a process, not once a shard.
_default_context: ssl.SSLContext | None = None


def proxy_options(proxy: str) -> dict[str, Any]:
    """websocket-client's options for a proxy url. Raises ConfigurationError."""
    parts = urlsplit(proxy)
    kind = {"https": "http"}.get(parts.scheme, parts.scheme)
    if kind not in ("http", "socks4", "socks4a", "socks5", "socks5h") or not parts.hostname:
        raise ConfigurationError(
            f"proxy must be an http, socks4 or socks5 url with a host, not scheme {parts.scheme!r}"
        )
    auth = (parts.username, parts.password or "") if parts.username else None
    return {
        "http_proxy_host": parts.hostname,
        "http_proxy_port": parts.port or (80 if kind == "http" else 1080),
        "http_proxy_auth": auth,
        "proxy_type": kind,
    }


def environment_proxy(url: str) -> str | None:
    """The proxy that the environment names for ``url`` (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), as requests does."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get("https" if parts.scheme == "wss" else "http") or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return proxy
