"""Which sessions get an event, and how much of it (protocol, sections 9, 10 and 14). Pure."""

from typing import Any

from ..intents import CONTENT_EVENTS, EVENT_INTENTS, Intents
from .sessions import ServerSession

#: Events that go to shard 0 whatever guild they name (section 14).
SHARD_ZERO = ("ENTITLEMENT_", "SUBSCRIPTION_")
GUILD_ID_IS_ID = frozenset({"GUILD_CREATE", "GUILD_UPDATE", "GUILD_DELETE"})


def is_wanted(session: ServerSession, name: str, guild_id: int | None) -> bool:
    """Whether the intents of a session include an event, in a guild or outside (section 10)."""
    needed, direct = NEEDED.get(name, (Intents(0), Intents(0)))
    if not needed:
        return True
    if direct and name != "THREAD_MEMBERS_UPDATE":
        needed = direct if guild_id is None else needed & ~direct
    return bool(int(needed) & int(session.intents))


def direct_part(needed: Intents) -> Intents:
    """The intent that stands for direct messages."""
    return Intents(sum(one for one in needed if one.name and one.name.startswith("DIRECT_")))


NEEDED = {name: (needed, direct_part(needed)) for name, needed in EVENT_INTENTS.items()}


def guild_of(name: str, data: Any) -> int | None:
    if not isinstance(data, dict):
        return None
    value = data.get("id") if name in GUILD_ID_IS_ID else data.get("guild_id")
    try:
        return int(value) if value is not None else None
    except (TypeError, ValueError):
        return None


def is_blanked(session: ServerSession, name: str, data: Any) -> bool:
    return (
        name in CONTENT_EVENTS
        and isinstance(data, dict)
        and data.get("guild_id") is not None
        and Intents.MESSAGE_CONTENT not in session.intents
    )


def blank_content(data: dict[str, Any], own_id: str) -> dict[str, Any]:
    """Message fields without the intent (10.3); the bot's own messages and mentions of it keep theirs."""
    mentioned = any(isinstance(one, dict) and one.get("id") == own_id for one in data.get("mentions") or ())
    if mentioned or (data.get("author") or {}).get("id") == own_id:
        return data
    blank = {"content": "", "embeds": [], "attachments": [], "components": [], "matched_content": ""}
    return {key: blank.get(key, value) for key, value in data.items() if key != "poll"}
