"""The envelope of a payload (protocol, section 3.1) and the event it becomes.

They are one class on purpose: msgspec builds the ``Event`` straight from the wire and leaves ``d`` unparsed, so an
event costs one small object until somebody asks for its data.
"""

from collections.abc import Iterator
from threading import Lock
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

#: Guards first decodes. An event takes the lock its address falls on: no lock per event, none shared by all shards.
DECODE_LOCKS = [Lock() for _ in range(64)]

Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]

#: What decoding may raise. Text that is no UTF-8 is found only where a string is built.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

decode_json = msgspec.json.decode
encode_json = msgspec.json.encode


class Event(
    msgspec.Struct,
    gc=False,
    eq=False,
    rename={"type": "t", "sequence": "s", "payload": "d", "shard_id": "~shard", "size": "~size", "cache": "~cache"},
):
    """A dispatch: ``event.type``, ``event.data``, ``event.shard_id``, ``event.sequence``, ``event.raw``.

    It unpacks to ``type, data, shard_id``. Any thread may read it. ``data`` is shared by all who receive the event:
    treat it as read-only. SHARD_* events, which tell of the shard's own life, have the sequence None.
    """

    op: int
    #: The event's name, such as ``"MESSAGE_CREATE"``.
    type: str | None = None
    sequence: Sequence | None = None
    payload: Raw = Raw(b"null")
    # Not of the wire: the shard assigns these three after decoding, whatever an envelope may have carried.
    shard_id: int = 0
    #: Length of the whole payload, bytes: what the event weighs in a queue.
    size: int = 0
    cache: Any = UNSET

    @classmethod
    def create(cls, type: str, data: Any, shard_id: int = 0, sequence: int | None = None) -> "Event":
        """An event of our own making: SHARD_* events, and events in tests."""
        payload = encode_json(data)
        return cls(0, type, sequence, Raw(payload), shard_id, len(payload))

    @property
    def raw(self) -> bytes:
        """The JSON of ``d``, as received."""
        return bytes(self.payload)

    @property
    def data(self) -> Any:
        """``d``, decoded on first use and once: dicts and lists, or the type asked for with ``type=``.

        Raises msgspec.DecodeError or UnicodeDecodeError when it is no valid JSON; msgspec.ValidationError with the path
        of the field when it does not fit the type.
        """
        if self.cache is UNSET:
            with DECODE_LOCKS[id(self) >> 4 & 63]:
                if self.cache is UNSET:
                    self.cache = decode_json(self.payload)
        return self.cache

    @property
    def guild_id(self) -> int | None:
        """The guild this event belongs to, for routing (protocol, section 14); None outside guilds."""
        try:
            keys = ROUTING_KEYS.decode(self.payload)
        except UNREADABLE:
            return None
        key = keys.id if self.type in GUILD_ID_IS_ID else keys.guild_id
        if isinstance(key, str):
            # Longer is no snowflake, and beyond some thousand digits int() refuses.
            return int(key) if key.isascii() and key.isdigit() and len(key) <= 20 else None
        return None if isinstance(key, UnsetType) else key

    def typed(self, decoder: "msgspec.json.Decoder[Any]") -> "Event":
        """The same event with ``data`` decoded by ``decoder``: a view of its own over the same bytes."""
        data = decoder.decode(self.payload)
        return Event(self.op, self.type, self.sequence, self.payload, self.shard_id, self.size, data)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.type, self.data, self.shard_id))

    def __repr__(self) -> str:
        number = "" if self.sequence is None else f" #{self.sequence}"
        return f"<Event {self.type}{number} of shard {self.shard_id}, {self.size} bytes>"


class RoutingKeys(msgspec.Struct, gc=False):
    """The two top-level fields that can name the guild; all else is skipped, not built."""

    guild_id: int | str | UnsetType | None = UNSET
    id: int | str | UnsetType | None = UNSET


#: Events whose ``d.id`` is the guild's id.
GUILD_ID_IS_ID = frozenset({"GUILD_CREATE", "GUILD_UPDATE", "GUILD_DELETE"})

ROUTING_KEYS = msgspec.json.Decoder(RoutingKeys)


def envelope_decoder() -> "msgspec.json.Decoder[Event]":
    """A decoder of whole payloads; each shard has its own."""
    return msgspec.json.Decoder(Event)
