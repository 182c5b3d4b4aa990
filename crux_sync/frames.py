"""WebSocket frames from the server, cut out of whatever bytes have arrived (RFC 6455, section 5.2). Pure.

websocket-client's own reader costs two or three ``recv`` calls a message; this one costs none: it is fed what one
``recv`` brought and returns every message that is complete.
"""

from typing import NamedTuple

from .close_codes import NO_CODE
from .errors import ProtocolError

FIN, RESERVED, OPCODE, MASKED = 0x80, 0x70, 0x0F, 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

#: The first byte of a message that is one frame.
WHOLE_BINARY, WHOLE_TEXT = FIN | BINARY, FIN | TEXT

#: Default bound on a message, bytes. READY of 5.7 MB has been seen; 64 MiB is generous, and still a bound.
MAX_MESSAGE = 64 * 1024 * 1024


class CloseFrame(NamedTuple):
    """What the server said when it closed. ``code`` 1005: a close frame without a code."""

    code: int
    reason: str


class FrameReader:
    """Cuts messages out of a byte stream. One per connection, fed by one thread."""

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self.max_message = max_message
        #: Pings to answer; the caller empties the list.
        self.pings: list[bytes] = []
        #: The server's close frame. What follows it is ignored (RFC 6455, 5.5.1).
        self.close: CloseFrame | None = None
        self._buffer = bytearray()
        #: How long the buffer must be before it is worth looking at again.
        self._wanted = 0
        #: The parts so far of a fragmented message.
        self._fragments: bytearray | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; return the text and binary messages they complete. Raises ProtocolError."""
        if self.close is not None:
            return []
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return []
            data = bytes(self._buffer)
            self._buffer = bytearray()
        messages: list[bytes] = []
        position, end = 0, len(data)
        while end - position >= 2:
            first, length = data[position], data[position + 1]
            start = position + 2
            if length >= 126:
                if length >= MASKED:
                    raise ProtocolError("masked frame from the server")
                start += 2 if length == 126 else 8
                if start > end:
                    return self._keep(data, position, start, messages)
                if length == 126:
                    length = data[position + 2] << 8 | data[position + 3]
                else:
                    length = int.from_bytes(data[position + 2 : start], "big")
                if length > self.max_message:
                    raise ProtocolError(f"frame of {length} bytes, more than the limit of {self.max_message}")
            stop = start + length
            if stop > end:
                self._check(first, length)
                return self._keep(data, position, stop, messages)
            # Nearly always, and without building a tuple each time.
            if (first == WHOLE_BINARY or first == WHOLE_TEXT) and self._fragments is None:  # noqa: SIM109
                messages.append(data[start:stop])
            else:
                self._unusual(first, data[start:stop], messages)
                if self.close is not None:  # nothing after it counts, least of all an error that would hide its code
                    return messages
            position = stop
        if position < end:
            return self._keep(data, position, position + 2, messages)
        return messages

    def _keep(self, data: bytes, position: int, wanted: int, messages: list[bytes]) -> list[bytes]:
        self._buffer += data[position:]
        self._wanted = wanted - position
        return messages

    def _check(self, first: int, length: int) -> None:
        """What the header alone tells, so that a bad frame is not waited for."""
        opcode = first & OPCODE
        if first & RESERVED:
            raise ProtocolError("frame with reserved bits, but no extension was agreed on")
        if opcode in (CLOSE, PING, PONG):
            if length > 125:
                raise ProtocolError(f"control frame of {length} bytes, more than 125")
            if not first & FIN:
                raise ProtocolError("fragmented control frame")
        elif opcode not in (CONTINUATION, TEXT, BINARY):
            raise ProtocolError(f"unknown frame opcode {opcode:#x}")

    def _unusual(self, first: int, payload: bytes, messages: list[bytes]) -> None:
        """Control frames and fragments."""
        self._check(first, len(payload))
        opcode = first & OPCODE
        if opcode == PING:
            self.pings.append(payload)
        elif opcode == CLOSE:
            self.close = read_close(payload)
        elif opcode != PONG:
            self._fragment(opcode, bool(first & FIN), payload, messages)

    def _fragment(self, opcode: int, final: bool, payload: bytes, messages: list[bytes]) -> None:
        if opcode == CONTINUATION:
            if self._fragments is None:
                raise ProtocolError("continuation frame without a message to continue")
            self._fragments += payload
        elif self._fragments is not None:
            raise ProtocolError("new message inside a fragmented one")
        else:
            self._fragments = bytearray(payload)
        if len(self._fragments) > self.max_message:
            raise ProtocolError(f"message of more than {self.max_message} bytes")
        if final:
            messages.append(bytes(self._fragments))
            self._fragments = None


def read_close(payload: bytes) -> CloseFrame:
    """Code and reason of a close frame's payload (RFC 6455, 5.5.1)."""
    if not payload:
        return CloseFrame(NO_CODE, "")
    if len(payload) == 1:
        raise ProtocolError("close frame with half a code")
    # The reason is for people; Discord's are ASCII, and a broken one must not cost us the code.
    return CloseFrame(int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace"))
