"""Payloads to WebSocket messages: compression, text and binary, splitting (protocol, section 5). Pure."""

import zlib
from itertools import pairwise
from typing import NamedTuple

from ..inflate import import_zstd


class Message(NamedTuple):
    """One WebSocket message."""

    data: bytes
    text: bool


class Encoder:
    """The compression context of one connection. ``split``: cut each compressed payload into this many messages."""

    def __init__(self, compress: str | None) -> None:
        self.split = 1
        self._zlib = zlib.compressobj(6) if compress == "zlib-stream" else None
        self._zstd = import_zstd().ZstdCompressor() if compress == "zstd-stream" else None

    def encode(self, payload: bytes, *, compress_alone: bool = False) -> list[Message]:
        """The messages that carry ``payload``; ``compress_alone``: as one whole zlib stream (5.2)."""
        if self._zlib is not None:
            return self._cut(self._zlib.compress(payload) + self._zlib.flush(zlib.Z_SYNC_FLUSH))
        if self._zstd is not None:  # a message is exactly one payload here: never split
            return [Message(self._zstd.compress(payload, self._zstd.FLUSH_BLOCK), False)]
        if compress_alone:
            return [Message(zlib.compress(payload), False)]
        return [Message(payload, True)]

    def _cut(self, data: bytes) -> list[Message]:
        """The last cut falls inside the 00 00 FF FF suffix, where a careless reader stumbles."""
        if self.split < 2 or len(data) < self.split + 4:
            return [Message(data, False)]
        step = max((len(data) - 2) // (self.split - 1), 1)
        edges = [*list(range(0, len(data) - 2, step))[: self.split - 1], len(data) - 2, len(data)]
        return [Message(data[start:stop], False) for start, stop in pairwise(edges)]
