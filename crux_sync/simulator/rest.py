"""The REST routes: the gateway's, with scripted failures (protocol, sections 1 and 17.1), and what bots post. Pure."""

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .channels import Interactions, Refusal, RestRequest, create_message
from .core import Core


class Answer(NamedTuple):
    """An HTTP answer. ``delay``: seconds to wait before sending it. ``events``: what it makes happen."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    delay: float = 0.0
    events: tuple[tuple[str, Any], ...] = ()


@dataclass
class Rest:
    """Answers requests; what ``script`` holds is answered first, one each."""

    core: Core
    url: str = ""
    script: deque[Answer] = field(default_factory=deque)
    requests: list[str] = field(default_factory=list)
    #: What bots have posted, and the interactions they may answer.
    posted: list[RestRequest] = field(default_factory=list)
    interactions: Interactions = field(default_factory=Interactions)

    def answer(self, method: str, target: str, headers: dict[str, str], now: float, body: bytes = b"") -> Answer:
        path = target.split("?")[0]
        self.requests.append(f"{method} {path}")
        if method == "POST":
            return self._post(path, headers, body)
        if path not in ("/api/v10/gateway", "/api/v10/gateway/bot", "/api/v9/gateway", "/api/v9/gateway/bot"):
            return self._api_answer(path, headers)
        if self.script:
            return self.script.popleft()
        if method != "GET":
            return as_json(405, {"message": "405: Method Not Allowed", "code": 0})
        if path.endswith("/gateway"):
            return as_json(200, {"url": self.url})
        if not self._authorized(headers):
            return as_json(401, {"message": "401: Unauthorized", "code": 0})
        return as_json(200, self._gateway_bot(now))

    def _authorized(self, headers: dict[str, str]) -> bool:
        core = self.core
        return headers.get("authorization") == f"Bot {core.settings.token}" and not core.token_revoked

    def _gateway_bot(self, now: float) -> dict[str, object]:
        core = self.core
        core.renew(now)
        return {
            "url": self.url,
            "shards": core.settings.shards,
            "session_start_limit": {
                "total": core.settings.total,
                "remaining": core.remaining,
                "reset_after": 0 if core.resets is None else max(round((core.resets - now) * 1000), 0),
                "max_concurrency": core.settings.max_concurrency,
            },
        }

    def _post(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """A message or the answer to an interaction, as bots post them."""
        try:
            said = json.loads(body) if body else None
        except ValueError:
            said = None
        match path.split("/")[3:]:
            case ["channels", channel_id, "messages"]:
                if not self._authorized(headers):
                    return as_json(401, {"message": "401: Unauthorized", "code": 0})
                message_id = str(int(self.core.world.user_id) + len(self.posted) + 1)
                try:
                    message = create_message(self.core.world, channel_id, said, message_id)
                except Refusal as refusal:
                    return as_json(refusal.status, refusal.body)
                self.posted.append(RestRequest("POST", path, said))
                return as_json(200, message)._replace(events=(("MESSAGE_CREATE", message),))
            case ["interactions", interaction_id, token, "callback"]:
                try:
                    self.interactions.answer(interaction_id, token, said)
                except Refusal as refusal:
                    return as_json(refusal.status, refusal.body)
                self.posted.append(RestRequest("POST", path, said))
                return Answer(204, b"")
            case ["gateway"] | ["gateway", "bot"]:
                return as_json(405, {"message": "405: Method Not Allowed", "code": 0})
        return as_json(404, {"message": "404: Not Found", "code": 0})

    def _api_answer(self, path: str, headers: dict[str, str]) -> Answer:
        """Who the bot is: what libraries ask for when they log in, and ``crux-sync info``."""
        if not path.endswith(("/users/@me", "/applications/@me")):  # with and without oauth2/
            return as_json(404, {"message": "404: Not Found", "code": 0})
        if not self._authorized(headers):
            return as_json(401, {"message": "401: Unauthorized", "code": 0})
        world = self.core.world
        if path.endswith("/users/@me"):
            return as_json(200, world.bot)
        return as_json(200, self._application())

    def _application(self) -> dict[str, object]:
        world = self.core.world
        return {
            "id": world.application_id,
            "name": world.bot.get("username"),
            "icon": None,
            "description": "",
            "bot_public": True,
            "bot_require_code_grant": False,
            "verify_key": "0" * 64,
            "owner": world.bot,
            "team": None,
            "flags": world.application_flags,
            "approximate_guild_count": len(world.guilds) or len(world.recorded_guilds),
        }


def as_json(status: int, body: object, **headers: str) -> Answer:
    extra = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, json.dumps(body).encode(), (("Content-Type", "application/json"), *extra))


def rate_limited(retry_after: float, *, json_body: bool = True) -> Answer:
    """HTTP 429: as the API says it, or as the edge does, in plain text (1.3)."""
    if not json_body:
        return Answer(429, b"error code: 1015", (("Content-Type", "text/plain"), ("Retry-After", f"{retry_after:g}")))
    body = {"message": "You are being rate limited.", "retry_after": retry_after, "global": False}
    return as_json(429, body, Retry_After=f"{retry_after:g}", X_RateLimit_Scope="user")
