"""Events as people read them: a line each, in columns; with ``--pretty`` the data below it."""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..events import UNREADABLE, Event

if TYPE_CHECKING:
    from rich.text import Text

#: Columns, characters.
TYPE_WIDTH = 26
GUILD_WIDTH = 19

#: By the first word of an event's name; others are white.
COLOURS = {
    "MESSAGE": "green",
    "INTERACTION": "magenta",
    "GUILD": "blue",
    "CHANNEL": "blue",
    "THREAD": "blue",
    "PRESENCE": "bright_black",
    "TYPING": "bright_black",
    "VOICE": "yellow",
    "READY": "bold cyan",
    "RESUMED": "bold cyan",
}


def columns(event: Event, now: datetime, shard_width: int = 1) -> "Text":
    """Time, shard, event, guild, and what it says, in a few words."""
    from rich.text import Text

    name = event.type or ""
    guild = event.guild_id
    return Text.assemble(
        (f"{now:%H:%M:%S}.{now.microsecond // 1000:03}", "bright_black"),
        (f"  {event.shard_id:>{shard_width}}", "cyan"),
        (f"  {printable(name):<{TYPE_WIDTH}}", COLOURS.get(name.split("_")[0], "")),
        (f"  {'' if guild is None else guild:<{GUILD_WIDTH}}", "bright_black"),
        f"  {printable(summary(event))}",
    )


def pretty(event: Event) -> "Text":
    """The data, indented and coloured."""
    from rich.highlighter import JSONHighlighter
    from rich.text import Text

    try:
        text = json.dumps(event.data, indent=2, ensure_ascii=False)
    except UNREADABLE:
        text = event.raw.decode("utf-8", "replace")
    return JSONHighlighter()(Text("\n".join(printable(line) for line in text.splitlines())))


def printable(text: str) -> str:
    """What other people wrote must not move our cursor, colour our screen or ring our bell."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def summary(event: Event) -> str:
    """Who, and what, in a few words; empty where the data has neither."""
    try:
        data = event.data
    except UNREADABLE:
        return "(not readable)"
    if not isinstance(data, dict):
        return ""
    who, what = name_of(data), what_of(data)
    return f"{who}: {what}" if who and what else who or what


def name_of(data: dict[str, Any]) -> str:
    """The user an event is about, as people know him, else his id."""
    member = data.get("member")
    candidates = [data.get("author"), data.get("user"), member.get("user") if isinstance(member, dict) else None]
    for user in candidates:
        if isinstance(user, dict) and (user.get("username") or user.get("id")):
            return str(user.get("username") or user.get("id"))
    return str(data.get("user_id") or "")


def what_of(data: dict[str, Any]) -> str:
    """Text, emoji, status, name: the first that is there."""
    command, emoji = data.get("data"), data.get("emoji")
    if data.get("content"):
        return str(data["content"]).replace("\n", " ")
    if isinstance(emoji, dict):
        return str(emoji.get("name") or "")
    if isinstance(command, dict) and "name" in command:
        return f"/{command['name']}"
    if "status" in data:
        return str(data["status"])
    if "name" in data:
        count = data.get("member_count")
        return f"{data['name']}, {count} members" if count is not None else str(data["name"])
    if isinstance(guilds := data.get("guilds"), list):
        return f"{len(guilds)} guilds"
    return ""
