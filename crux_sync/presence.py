"""Presence and activities as a bot may set them (protocol, section 12)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from .errors import ConfigurationError

STATUSES = ("online", "dnd", "idle", "invisible", "offline")

STREAMING, CUSTOM, MOST_TYPE = 1, 4, 6

#: Hosts that Discord accepts for the url of a streaming activity.
STREAMING_HOSTS = frozenset({"twitch.tv", "www.twitch.tv", "youtube.com", "www.youtube.com"})

#: Longest name and state, characters.
LONGEST_TEXT = 128


@dataclass(frozen=True, slots=True)
class Activity:
    """What a bot is doing: ``Activity("chess")``. Bots may set these four fields only.

    ``type``: 0 playing, 1 streaming (with ``url``), 2 listening, 3 watching, 4 custom (``state`` is the text), 5
    competing. Raises ConfigurationError, naming the field and the rule.
    """

    name: str = "Custom Status"
    type: int = 0
    state: str | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        check_text("activity name", self.name, least=1)
        if isinstance(self.type, bool) or not isinstance(self.type, int) or not 0 <= self.type <= MOST_TYPE:
            raise ConfigurationError(f"activity type={self.type!r} must be a number from 0 to {MOST_TYPE}")
        if self.state is not None:
            check_text("activity state", self.state)
        if self.type == CUSTOM and not self.state:
            raise ConfigurationError("a custom activity (type 4) shows its state: state must be a text")
        if self.type == STREAMING and self.url is not None:
            check_streaming_url(self.url)

    @classmethod
    def of(cls, value: Any) -> "Activity":
        """An Activity, or a mapping with its fields."""
        return value if isinstance(value, cls) else cls(**known_fields(cls, value, "activity"))

    def payload(self) -> dict[str, Any]:
        """As op 3 and Identify carry it."""
        payload: dict[str, Any] = {"name": self.name, "type": self.type}
        if self.state is not None:
            payload["state"] = self.state
        if self.url is not None:
            payload["url"] = self.url
        return payload


@dataclass(frozen=True, slots=True)
class Presence:
    """How the bot shows up. ``since``: unix milliseconds since when it is idle, None if it is not.

    ``activities`` takes Activity values or mappings. Raises ConfigurationError, naming the field and the rule.
    """

    status: str = "online"
    #: Once made, a tuple of Activity.
    activities: Sequence[Activity | Mapping[str, Any]] = ()
    since: int | None = None
    afk: bool = False

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ConfigurationError(f"status={self.status!r} must be one of {', '.join(STATUSES)}")
        if isinstance(self.since, bool) or not isinstance(self.since, int | None) or (self.since or 0) < 0:
            raise ConfigurationError(f"since={self.since!r} must be unix milliseconds or None")
        if not isinstance(self.afk, bool):
            raise ConfigurationError(f"afk={self.afk!r} must be True or False")
        if isinstance(self.activities, str | bytes | Mapping) or not isinstance(self.activities, Iterable):
            raise ConfigurationError(f"activities={self.activities!r} must be a list of activities; empty clears them")
        object.__setattr__(self, "activities", tuple(Activity.of(one) for one in self.activities))

    @classmethod
    def of(cls, value: Any) -> "Presence":
        """A Presence, a mapping with its fields, or None for the default."""
        if isinstance(value, cls):
            return value
        return cls() if value is None else cls(**known_fields(cls, value, "presence"))

    def payload(self) -> dict[str, Any]:
        """All four fields, always: leaving one out was seen to end the connection (section 12.1)."""
        return {
            "since": self.since,
            "activities": [Activity.of(activity).payload() for activity in self.activities],
            "status": self.status,
            "afk": self.afk,
        }


def known_fields(kind: type[Any], value: Any, what: str) -> dict[str, Any]:
    names = [one.name for one in fields(kind)]
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what} must be {kind.__name__}(...) or a mapping, not {value!r}")
    for name in value:
        if name not in names:
            raise ConfigurationError(f"{what} has {name!r}; a bot may set {', '.join(names)}")
    return dict(value)


def check_text(what: str, value: Any, least: int = 0) -> None:
    if not isinstance(value, str) or not least <= len(value) <= LONGEST_TEXT:
        raise ConfigurationError(f"{what}={value!r} must be a text of {least} to {LONGEST_TEXT} characters")


def check_streaming_url(url: Any) -> None:
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme != "https" or parts.hostname not in STREAMING_HOSTS:
        raise ConfigurationError(
            f"url={url!r} of a streaming activity must be on https://twitch.tv or https://youtube.com"
        )
