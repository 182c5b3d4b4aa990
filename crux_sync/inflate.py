"""Transport decompression, one context per connection (protocol, section 5). The owner of zlib-ng and zstd.

An inflater turns the messages that one ``recv`` completed into the payloads they carry. Every call into zlib drops
the GIL, so ``batched`` inflates all of them at once; that is worth its price only while another thread computes.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from zlib_ng import zlib_ng

from .errors import ConfigurationError, ProtocolError
from .frames import MAX_MESSAGE

#: What Z_SYNC_FLUSH leaves at the end of each payload (section 5.1).
SUFFIX = b"\x00\x00\xff\xff"

#: Where one JSON object ends and the next begins. A letter must follow: see ``split_payloads``.
SEAM = b'}{"'

#: Deflate expands no more than this: 258 bytes for two bits.
LARGEST_RATIO = 1032

COMPRESSIONS = ("zlib-stream", "zstd-stream", None)


class Inflater(Protocol):
    """Messages in, payloads out. Raises ProtocolError; the context is unusable after that."""

    def inflate(self, messages: Sequence[bytes], *, batched: bool = False) -> Sequence[bytes]: ...


def create_inflater(compress: str | None, limit: int = MAX_MESSAGE) -> Inflater:
    """The inflater for a ``compress`` option; ``limit`` bounds an inflated payload, bytes."""
    if compress == "zlib-stream":
        return ZlibStream(limit)
    if compress == "zstd-stream":
        return ZstdStream(limit)
    return Plain()


class Plain:
    """No compression: a message is a payload."""

    def inflate(self, messages: Sequence[bytes], *, batched: bool = False) -> Sequence[bytes]:
        return messages


class ZlibStream:
    """``compress=zlib-stream``: one endless zlib stream, flushed after each payload (section 5.1)."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        #: So much input cannot inflate beyond the limit.
        self._harmless = limit // LARGEST_RATIO
        self._context = zlib_ng.decompressobj()
        #: Messages of a payload that is not complete; the suffix may itself be split over two of them.
        self._partial = bytearray()

    def inflate(self, messages: Sequence[bytes], *, batched: bool = False) -> Sequence[bytes]:
        if batched and len(messages) > 1 and not self._partial:
            payloads = self._inflate_batch(messages)
            if payloads is not None:
                return payloads
        return self._inflate_each(messages)

    def _inflate_each(self, messages: Sequence[bytes]) -> list[bytes]:
        if len(messages) == 1 and messages[0][-4:] == SUFFIX and not self._partial:  # a quiet connection
            size = len(messages[0])
        else:
            # A list is quicker here than a generator, which changes frames for each message.
            if self._partial or not all([message[-4:] == SUFFIX for message in messages]):  # noqa: C419
                messages = self._join(messages)
            size = sum(map(len, messages))
        if size > self._harmless:
            return [self._decompress(message, self._limit) for message in messages]
        inflate = self._context.decompress
        try:
            payloads = [inflate(message) for message in messages]
        except zlib_ng.error as error:
            raise ProtocolError(f"zlib-stream cannot be inflated: {error}") from error
        if self._context.eof:
            raise ProtocolError("zlib-stream ended")
        return payloads

    def _join(self, messages: Sequence[bytes]) -> list[bytes]:
        """Put together the messages of a payload; what is not complete stays for the next time."""
        joined = []
        for message in messages:
            if self._partial or message[-4:] != SUFFIX:
                self._partial += message
                if self._partial[-4:] != SUFFIX:
                    if len(self._partial) > self._limit:
                        raise ProtocolError(f"compressed payload of more than {self._limit} bytes")
                    continue
                message = bytes(self._partial)
                self._partial.clear()
            joined.append(message)
        return joined

    def _inflate_batch(self, messages: Sequence[bytes]) -> list[bytes] | None:
        """All messages in one call; None when their payloads cannot be told apart, with the context as it was."""
        if any(message[-4:] != SUFFIX for message in messages):
            return None
        before = self._context.copy()
        try:
            payloads = split_payloads(self._decompress(b"".join(messages), self._limit))
        except ProtocolError:
            payloads = []
        if len(payloads) == len(messages):
            return payloads
        self._context = before
        return None

    def _decompress(self, data: bytes, limit: int) -> bytes:
        try:
            output: bytes = self._context.decompress(data, limit)
        except zlib_ng.error as error:
            raise ProtocolError(f"zlib-stream cannot be inflated: {error}") from error
        if self._context.unconsumed_tail:
            raise ProtocolError(f"payload inflates to more than {limit} bytes")
        if self._context.eof:
            raise ProtocolError("zlib-stream ended")
        return output


class ZstdStream:
    """``compress=zstd-stream``: a message is a payload, the zstd frame stays open (section 5.3)."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._zstd = import_zstd()
        self._context = self._zstd.ZstdDecompressor()

    def inflate(self, messages: Sequence[bytes], *, batched: bool = False) -> Sequence[bytes]:
        return [self._decompress(message) for message in messages]

    def _decompress(self, message: bytes) -> bytes:
        try:
            output: bytes = self._context.decompress(message, self._limit)
        except (self._zstd.ZstdError, EOFError) as error:
            raise ProtocolError(f"zstd-stream cannot be inflated: {error}") from error
        if len(output) >= self._limit:
            raise ProtocolError(f"payload inflates to more than {self._limit} bytes")
        return output


def import_zstd() -> Any:
    """The zstd module: the standard library's from Python 3.14 on, its backport before."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        try:
            from backports import zstd
        except ImportError as error:
            raise ConfigurationError(
                "compress='zstd-stream' needs a zstd module: pip install 'crux_sync[zstd]'"
            ) from error
    return zstd


def split_payloads(text: bytes) -> list[bytes]:
    """Part JSON objects that follow each other without a gap.

    They part at ``}{"`` followed by a letter, which cannot occur inside valid JSON: outside strings no ``}`` meets a
    ``{``; inside one, the quote is escaped or ends the string, and no letter follows the end of a string.
    """
    payloads = []
    start = 0
    seam = text.find(SEAM)
    while seam >= 0:
        if text[seam + 3 : seam + 4].isalpha():
            payloads.append(text[start : seam + 1])
            start = seam + 1
        seam = text.find(SEAM, seam + 1)
    payloads.append(text[start:])
    return payloads
