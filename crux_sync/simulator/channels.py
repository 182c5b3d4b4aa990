"""What a bot says over REST: messages, and answers to interactions. Pure; as little of the API as a bot needs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .payloads import WHEN
from .world import World

#: Characters in the content of a message.
LONGEST_CONTENT = 2000

#: What else can make a message that is not empty.
INSTEAD_OF_CONTENT = ("embeds", "sticker_ids", "components", "poll")


class RestRequest(NamedTuple):
    """A request with a body that a bot has made. ``body`` is the decoded JSON."""

    method: str
    path: str
    body: Any


class Refusal(Exception):
    """The API says no: status, Discord's code, message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"message": message, "code": code}


def create_message(world: World, channel_id: str, body: Any, message_id: str) -> dict[str, Any]:
    """The message that is made. Raises Refusal for what Discord would not take."""
    if not isinstance(body, Mapping):
        raise Refusal(400, 50109, "The request body contains invalid JSON.")
    content = body.get("content") or ""
    if not isinstance(content, str) or len(content) > LONGEST_CONTENT:
        raise Refusal(400, 50035, "Invalid Form Body")
    if not content and not any(body.get(name) for name in INSTEAD_OF_CONTENT):
        raise Refusal(400, 50006, "Cannot send an empty message")
    guild = next((one for one in world.guilds.values() if channel_id in (one.text_channel, one.voice_channel)), None)
    message: dict[str, Any] = {
        "id": message_id,
        "channel_id": channel_id,
        "author": world.bot,
        "content": content,
        "timestamp": WHEN,
        "edited_timestamp": None,
        "tts": bool(body.get("tts")),
        "mention_everyone": False,
        "pinned": False,
        "type": 0,
        "flags": 0,
        "embeds": body.get("embeds") or [],
        "components": body.get("components") or [],
        **{name: [] for name in ("mentions", "mention_roles", "attachments")},
    }
    if body.get("message_reference"):
        message |= {"type": 19, "message_reference": body["message_reference"]}
    return message | ({"guild_id": guild.id} if guild is not None else {})


class Interactions:
    """Interactions that were dispatched, and whether they have been answered: each may be, once."""

    def __init__(self) -> None:
        self._answered: dict[tuple[str, str], bool] = {}

    def dispatched(self, data: Any) -> None:
        """An INTERACTION_CREATE has been sent."""
        if isinstance(data, Mapping):
            self._answered[str(data.get("id")), str(data.get("token"))] = False

    def answer(self, interaction_id: str, token: str, body: Any) -> None:
        """Raises Refusal for an interaction that is not known, was answered, or for an answer without a type."""
        answered = self._answered.get((interaction_id, token))
        if answered is None:
            raise Refusal(404, 10062, "Unknown interaction")
        if not isinstance(body, Mapping) or not isinstance(body.get("type"), int):
            raise Refusal(400, 50035, "Invalid Form Body")
        if answered:
            raise Refusal(400, 40060, "Interaction has already been acknowledged.")
        self._answered[interaction_id, token] = True
