"""Events kept in a file as they came, to be played again: gzip, one JSON object a line (``crux-sync listen --record``).

The first line says ``{"recording":1,"shard_count":...,"intents":...}``; each of the others is what ``listen`` prints,
with the time (Unix seconds) before it. Reading also takes the plain lines of ``listen`` themselves. A recording holds
what Discord sent: messages, session ids, the short-lived tokens of interactions; never the token of the bot.
"""

import contextlib
import gzip
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Self, cast

import msgspec
from msgspec import Raw

from .errors import CruxError
from .events import UNREADABLE, Event, decode_json, encode_json

#: The format of the file.
VERSION = 1

#: What a crash may cost, seconds of events.
FLUSH_PERIOD = 1.0

GZIP_MAGIC = b"\x1f\x8b"


class RecordingError(CruxError):
    """A file that is no recording."""


def event_line(event: Event, at: float | None = None) -> bytes:
    """One event as one line of JSON, without its end; ``d`` is passed on as it came."""
    head: dict[str, Any] = {} if at is None else {"time": round(at, 6)}
    head |= {"shard": event.shard_id, "t": event.type, "s": event.sequence}
    raw = event.raw
    if b"\n" in raw:  # white space that JSON allows and lines do not
        with contextlib.suppress(*UNREADABLE):
            raw = msgspec.json.format(raw, indent=-1)
    return encode_json(head)[:-1] + b',"d":' + raw + b"}"


class Recorder:
    """Writes a recording. One thread at a time; only its owner may read the file that it makes.

    ``begin`` before the first event. What is written reaches the disk once a second, and at ``close``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.events = 0
        self._file: IO[bytes] = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        self._gzip = gzip.GzipFile(fileobj=self._file, mode="wb", filename="")
        self._flushed = time.monotonic()

    def begin(self, shard_count: int | None, intents: int) -> None:
        """Say what the events to come belong to."""
        self._gzip.write(encode_json({"recording": VERSION, "shard_count": shard_count, "intents": intents}) + b"\n")

    def add(self, event: Event) -> None:
        """Keep one event, with the time it is now."""
        self._gzip.write(event_line(event, time.time()) + b"\n")
        self.events += 1
        if time.monotonic() - self._flushed >= FLUSH_PERIOD:
            self.flush()

    def flush(self) -> None:
        """Write out what is there, so that a crash does not cost it."""
        self._gzip.flush()
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """End the file. Idempotent."""
        if not self._file.closed:
            self._gzip.close()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Recorded(NamedTuple):
    """One event of a recording."""

    #: Unix seconds; None in lines that have no time.
    time: float | None
    shard_id: int
    type: str
    #: The JSON of ``d``.
    raw: bytes

    @property
    def data(self) -> Any:
        """``d``, decoded; None when it is not valid JSON."""
        try:
            return decode_json(self.raw)
        except UNREADABLE:
            return None


class Line(msgspec.Struct, gc=False):
    """A line of the file: an event, or the head."""

    time: float | None = None
    shard: int = 0
    t: str | None = None
    d: Raw = Raw(b"null")
    recording: int | None = None
    shard_count: int | None = None
    intents: int | None = None


class Recording:
    """A recording, read anew each time it is iterated over, so that its length does not matter.

    Iterating gives ``Recorded`` events. Raises RecordingError for what is no recording, OSError for what cannot be
    read. A file whose end is missing, as after a crash, is read as far as it goes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        #: As the head of the file says, else as the events show.
        self.shard_count = 1
        #: What the recording bot asked for; None: not known.
        self.intents: int | None = None
        #: READY of each shard, by its number: the account and its guilds.
        self.ready: dict[int, dict[str, Any]] = {}
        self._read_ahead()

    def _read_ahead(self) -> None:
        """The head, and the READY of every shard, or all there are."""
        announced: int | None = None
        line: Line | None = None
        for line in self._lines():
            if line.recording is not None:
                if line.recording != VERSION:
                    raise RecordingError(f"{self.path}: recording of format {line.recording}, not {VERSION}")
                announced, self.intents = line.shard_count, line.intents
                continue
            self.shard_count = announced or max(self.shard_count, line.shard + 1)
            if line.t == "READY" and isinstance(data := to_event(line).data, dict):
                self.ready.setdefault(line.shard, data)
            if announced is not None and len(self.ready) == announced:
                break
        if line is None:
            raise RecordingError(f"{self.path}: nothing in it can be read")

    def __iter__(self) -> Iterator[Recorded]:
        return (to_event(line) for line in self._lines() if line.recording is None)

    def _lines(self) -> Iterator[Line]:
        decode = msgspec.json.Decoder(Line).decode
        previous: bytes | None = None
        number = 0
        with self._open() as file:
            # One line behind, to know the last: that one may have been cut off.
            for line in whole_lines(file):
                if previous is not None:
                    number += 1
                    yield self._parsed(decode, previous, number)
                previous = line
        if previous is not None and previous.endswith(b"\n"):
            yield self._parsed(decode, previous, number + 1)

    def _open(self) -> IO[bytes]:
        with open(self.path, "rb") as start:
            packed = start.read(2) == GZIP_MAGIC
        opener: Any = gzip.open if packed else open
        return cast("IO[bytes]", opener(self.path, "rb"))

    def _parsed(self, decode: Any, line: bytes, number: int) -> Line:
        try:
            parsed: Line = decode(line)
        except UNREADABLE as error:
            raise RecordingError(f"{self.path}, line {number}: {error}") from error
        if parsed.recording is None and (parsed.t is None or parsed.shard < 0):
            raise RecordingError(f"{self.path}, line {number}: no event")
        return parsed


def whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines up to where the file is damaged or cut off."""
    with contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile):
        yield from file


def to_event(line: Line) -> Recorded:
    return Recorded(line.time, line.shard, line.t or "", bytes(line.d))
