"""What a session itself sends: heartbeat, identify, resume; and the query of its urls (protocol, sections 2 and 11)."""

import sys
from typing import Any
from urllib.parse import urlsplit

from .events import encode_json
from .intents import Intents
from .opcodes import Opcode


def identify(
    token: str, intents: Intents, large_threshold: int, shard: tuple[int, int], presence: dict[str, Any] | None
) -> bytes:
    """Op 2. ``shard``: id and count."""
    data: dict[str, Any] = {
        "token": token,
        "intents": int(intents),
        "properties": {"os": sys.platform, "browser": "crux_sync", "device": "crux_sync"},
        "large_threshold": large_threshold,
        "shard": shard,
    }
    if presence is not None:
        data["presence"] = presence
    return encode_json({"op": int(Opcode.IDENTIFY), "d": data})


def resume(token: str, session_id: str, sequence: int) -> bytes:
    """Op 6."""
    data = {"token": token, "session_id": session_id, "seq": sequence}
    return encode_json({"op": int(Opcode.RESUME), "d": data})


def heartbeat(sequence: int | None) -> bytes:
    """Op 1."""
    return b'{"op":1,"d":%s}' % (b"null" if sequence is None else b"%d" % sequence)


def with_query(url: str, compress: str | None) -> str:
    """The same query on every connection (protocol, section 2); the url may or may not end in a slash."""
    parts = urlsplit(url)
    query = "v=10&encoding=json" + (f"&compress={compress}" if compress else "")
    return parts._replace(path=parts.path or "/", query=query, fragment="").geturl()
