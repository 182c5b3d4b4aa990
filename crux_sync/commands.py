"""Payloads of the commands a bot may send (protocol, sections 11 and 12). Pure: validated, then built.

Every function raises ConfigurationError with the field and the rule, before anything is sent.
"""

import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import ConfigurationError, PayloadTooLarge
from .events import encode_json
from .intents import Intents
from .opcodes import Opcode
from .presence import Presence

#: Discord ends the connection for a larger payload (section 3.2), bytes.
LARGEST_PAYLOAD = 4096

#: Ids that one op 8 is answered for (section 11.4).
USER_IDS_EACH = 100

#: Guilds in one op 31: ids of 20 digits with quotes and comma stay below the largest payload.
GUILD_IDS_EACH = 150

#: What an op 43 may ask for (section 11.7).
CHANNEL_FIELDS = ("status", "voice_start_time")

#: The session sends these; a second one would break it.
RESERVED = frozenset({Opcode.HEARTBEAT, Opcode.IDENTIFY, Opcode.RESUME})

Payload = dict[str, Any]


def encode(payload: Mapping[str, Any]) -> bytes:
    """The JSON of a payload. Raises PayloadTooLarge, ConfigurationError."""
    try:
        data: bytes = encode_json(payload)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the payload cannot be written as JSON: {error}") from error
    if len(data) > LARGEST_PAYLOAD:
        raise PayloadTooLarge(f"the payload has {len(data)} bytes; Discord takes {LARGEST_PAYLOAD}")
    return data


def snowflake(value: Any, field: str) -> str:
    """An id, given as int or str, as Discord writes it."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ConfigurationError(f"{field}={value!r} must be an id: an int, or a str of digits")
    text = str(value)
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 1 << 64:
        raise ConfigurationError(f"{field}={value!r} must be an id: a number from 1 to 2**64 - 1")
    return text


def snowflakes(values: Any, field: str) -> list[str]:
    """Ids, at least one, without doubles, in the order given."""
    if isinstance(values, int | str):
        values = [values]
    if not isinstance(values, Iterable):
        raise ConfigurationError(f"{field}={values!r} must be ids")
    ids = list(dict.fromkeys(snowflake(value, field) for value in values))
    if not ids:
        raise ConfigurationError(f"{field} must name at least one id")
    return ids


def flag(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{field}={value!r} must be True or False")
    return value


def presence_update(presence: Any) -> Payload:
    """Op 3."""
    return {"op": int(Opcode.PRESENCE_UPDATE), "d": Presence.of(presence).payload()}


def voice_state_update(guild_id: Any, channel_id: Any, self_mute: Any, self_deaf: Any) -> Payload:
    """Op 4; ``channel_id`` None leaves the channel."""
    data = {
        "guild_id": snowflake(guild_id, "guild_id"),
        "channel_id": None if channel_id is None else snowflake(channel_id, "channel_id"),
        "self_mute": flag(self_mute, "self_mute"),
        "self_deaf": flag(self_deaf, "self_deaf"),
    }
    return {"op": int(Opcode.VOICE_STATE_UPDATE), "d": data}


def request_guild_members(
    guild_id: Any, *, query: Any, limit: Any, user_ids: Any, presences: Any, intents: Intents
) -> list[Payload]:
    """Op 8, with a nonce each: one payload, or one for each hundred user ids."""
    base = {"guild_id": snowflake(guild_id, "guild_id"), "presences": flag(presences, "presences")}
    if presences and Intents.GUILD_PRESENCES not in intents:
        raise ConfigurationError("presences=True needs the intent GUILD_PRESENCES")
    if user_ids is not None:
        if query:
            raise ConfigurationError("query and user_ids exclude each other")
        ids = snowflakes(user_ids, "user_ids")
        parts = [ids[start : start + USER_IDS_EACH] for start in range(0, len(ids), USER_IDS_EACH)]
        return [op8(base | {"user_ids": part}) for part in parts]
    if not isinstance(query, str) or len(query) > 100:
        raise ConfigurationError(f"query={query!r} must be a prefix of user names, or '' for every member")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise ConfigurationError(f"limit={limit!r} must be a whole number of 0 or more")
    if query and not 1 <= limit <= 100:
        raise ConfigurationError(f"limit={limit} with a query must be from 1 to 100; 0 means all, for query='' only")
    if not query and limit == 0 and Intents.GUILD_MEMBERS not in intents:
        raise ConfigurationError("all members (query='', limit=0) need the intent GUILD_MEMBERS")
    return [op8(base | {"query": query, "limit": limit})]


def op8(data: dict[str, Any]) -> Payload:
    return {"op": int(Opcode.REQUEST_GUILD_MEMBERS), "d": data | {"nonce": secrets.token_hex(12)}}


def is_all_members(payload: Payload) -> bool:
    """Whether an op 8 is of the form that is limited to one in 30 s for each guild (section 8.4)."""
    data = payload["d"]
    return bool(data.get("query") == "" and data.get("limit") == 0)


def request_soundboard_sounds(guild_ids: Any) -> list[list[str]]:
    """The guild ids of op 31, in parts that fit one payload."""
    ids = snowflakes(guild_ids, "guild_ids")
    return [ids[start : start + GUILD_IDS_EACH] for start in range(0, len(ids), GUILD_IDS_EACH)]


def soundboard_payload(ids: list[str]) -> Payload:
    """Op 31."""
    return {"op": int(Opcode.REQUEST_SOUNDBOARD_SOUNDS), "d": {"guild_ids": ids}}


def request_channel_info(guild_id: Any, fields: Any) -> Payload:
    """Op 43."""
    if isinstance(fields, str) or not isinstance(fields, Iterable):
        raise ConfigurationError(f"fields={fields!r} must be a list of {', '.join(CHANNEL_FIELDS)}")
    names = list(fields)
    for name in names:
        if name not in CHANNEL_FIELDS:
            raise ConfigurationError(f"fields has {name!r}; there are {', '.join(CHANNEL_FIELDS)}")
    if not names:
        raise ConfigurationError("fields must name at least one field")
    return {"op": int(Opcode.REQUEST_CHANNEL_INFO), "d": {"guild_id": snowflake(guild_id, "guild_id"), "fields": names}}


def raw(payload: Any) -> Payload:
    """A payload of the caller's own making: any opcode but those that belong to the session."""
    if not isinstance(payload, Mapping):
        raise ConfigurationError(f"payload={payload!r} must be a mapping with op and d")
    op = payload.get("op")
    if isinstance(op, bool) or not isinstance(op, int) or op < 0:
        raise ConfigurationError(f"payload has op={op!r}; it must be a number")
    if op in RESERVED:
        raise ConfigurationError(f"op {op} ({Opcode(op).name}) belongs to the session; it is sent when it is due")
    return dict(payload)


def check_timeout(timeout: Any, field: str = "timeout") -> float | None:
    """Seconds, or None for no limit."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0 or math.isinf(timeout):
        raise ConfigurationError(f"{field}={timeout!r} must be seconds, 0 or more, or None")
    return float(timeout)
