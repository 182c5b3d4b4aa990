"""Collecting the chunks that answer op 8 (protocol, sections 11.4 and 13.5). Pure."""

import secrets
from typing import Any

from .commands import Payload, is_all_members

#: After a resume, this long without a chunk means that the rest will not come by itself, seconds.
GRACE = 2.0


class Part:
    """One request of a collection: sent or to be sent, answered or not."""

    def __init__(self, payload: Payload) -> None:
        self.payload = payload
        self.chunk_count: int | None = None
        self.seen: set[int] = set()
        #: When to send it (monotonic seconds); None: sent, its answer is awaited.
        self.send_at: float | None = 0.0
        self._sent = False

    @property
    def nonce(self) -> str:
        nonce: str = self.payload["d"]["nonce"]
        return nonce

    @property
    def complete(self) -> bool:
        return self.chunk_count is not None and len(self.seen) >= self.chunk_count

    @property
    def all_members(self) -> bool:
        return is_all_members(self.payload)

    def sending(self) -> Payload:
        """The payload, to be sent now."""
        if self._sent:
            # Under a new nonce, so that late chunks of the old answer do not count for the new one.
            self.payload = {**self.payload, "d": {**self.payload["d"], "nonce": secrets.token_hex(12)}}
            self.chunk_count = None
            self.seen.clear()
        self._sent = True
        self.send_at = None
        return self.payload


class MemberCollection:
    """The members that some requests ask for. Fed with events; knows what is missing and what to ask again."""

    def __init__(self, payloads: list[Payload]) -> None:
        self.parts = [Part(payload) for payload in payloads]
        self.not_found: list[Any] = []
        self.presences: list[dict[str, Any]] = []
        self._known: set[str] = set()
        self._last_chunk = 0.0

    @property
    def complete(self) -> bool:
        return all(part.complete for part in self.parts)

    def due(self, now: float) -> list[Part]:
        """Requests to send now."""
        return [part for part in self.parts if part.send_at is not None and part.send_at <= now]

    def next_due(self) -> float | None:
        """When ``due`` has something next."""
        return min((part.send_at for part in self.parts if part.send_at is not None), default=None)

    def feed(self, type: str | None, data: Any, now: float) -> list[dict[str, Any]]:
        """An event; the members it adds, each once however often it comes."""
        if type == "SHARD_READY":  # a new session knows nothing of our requests
            for part in self.parts:
                if not part.complete:
                    part.send_at = now
        elif type == "SHARD_RESUMED":  # what was on its way has been replayed; the rest may still come
            for part in self.parts:
                if not part.complete and part.send_at is None:
                    self._last_chunk = now
                    part.send_at = now + GRACE
        elif type == "RATE_LIMITED":
            self._rate_limited(data, now)
        elif type == "GUILD_MEMBERS_CHUNK":
            return self._chunk(data, now)
        return []

    def _rate_limited(self, data: Any, now: float) -> None:
        meta = data.get("meta") if isinstance(data, dict) else None
        if not isinstance(meta, dict):
            return
        for part in self.parts:
            if part.nonce == meta.get("nonce"):
                part.send_at = now + float(data.get("retry_after") or 0.0)

    def _chunk(self, data: dict[str, Any], now: float) -> list[dict[str, Any]]:
        part = next((one for one in self.parts if one.nonce == data.get("nonce")), None)
        index = data.get("chunk_index", 0)
        if part is None or index in part.seen:
            return []
        part.seen.add(index)
        part.chunk_count = data.get("chunk_count", 1)
        if part.send_at is not None:  # waiting to ask again, yet it goes on
            part.send_at = None if part.complete else now + GRACE
        self.not_found += data.get("not_found") or []
        self.presences += data.get("presences") or []
        members = [member for member in data.get("members") or [] if member["user"]["id"] not in self._known]
        self._known.update(member["user"]["id"] for member in members)
        return members
