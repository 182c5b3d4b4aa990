"""``crux-sync info``: the account, and what ``GET /gateway/bot`` grants it."""

import argparse
import json
from datetime import datetime, timedelta
from typing import Any

from ..discovery import GatewayInfo, fetch_account, fetch_application, fetch_gateway
from ..intents import Intents
from ..options import Options
from .options import Commands, add_connection_options, ssl_context, token

#: Flags of an application (API reference, application object): an intent is granted without limit to verified bots,
#: and within the limit of 100 guilds where it was merely switched on.
INTENT_FLAGS = {
    Intents.GUILD_PRESENCES: (1 << 12, 1 << 13),
    Intents.GUILD_MEMBERS: (1 << 14, 1 << 15),
    Intents.MESSAGE_CONTENT: (1 << 18, 1 << 19),
}

WHERE_TO_ENABLE = "https://discord.com/developers/applications, page Bot"


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("info", help="account, privileged intents, shards, identifies left, concurrency")
    add_connection_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    checked = Options().override({"token": token(options.api_url), "api_url": options.api_url})
    connection = (checked.api_url, checked.need_token())
    verify = ssl_context(options) or True
    gateway = fetch_gateway(*connection, verify=verify)
    account = fetch_account(*connection, verify=verify)
    application = fetch_application(*connection, verify=verify)
    facts = collect(gateway, account, application, datetime.now().astimezone())
    print(json.dumps(facts) if options.json else describe(facts))
    return 0


def collect(
    gateway: GatewayInfo, account: dict[str, Any], application: dict[str, Any], now: datetime
) -> dict[str, Any]:
    """What is worth knowing, as plain values."""
    limit = gateway.session_start_limit
    resets = now + timedelta(seconds=limit.reset_after) if limit.reset_after else None
    return {
        "user": {"id": account.get("id"), "username": account.get("username")},
        "application": {"id": application.get("id"), "name": application.get("name")},
        "guilds": application.get("approximate_guild_count"),
        "url": gateway.url,
        "shards": gateway.shards,
        "identifies": {
            "remaining": limit.remaining,
            "total": limit.total,
            "resets": None if resets is None else resets.isoformat(timespec="seconds"),
            "max_concurrency": limit.max_concurrency,
        },
        "privileged_intents": granted(application.get("flags")),
    }


def granted(flags: Any) -> dict[str, str]:
    """Each privileged intent: ``granted``, ``granted, limited`` or ``not granted``; empty when nothing is known."""
    if not isinstance(flags, int):
        return {}
    return {
        intent.name or "": "granted" if flags & full else "granted, limited" if flags & limited else "not granted"
        for intent, (full, limited) in INTENT_FLAGS.items()
    }


def describe(facts: dict[str, Any]) -> str:
    """The same for people."""
    user, application, identifies = facts["user"], facts["application"], facts["identifies"]
    guilds = "" if facts["guilds"] is None else f", in about {facts['guilds']:,} guilds"
    resets = identifies["resets"]
    when = f"renewed {datetime.fromisoformat(resets):%Y-%m-%d %H:%M}" if resets else "no window is running"
    lines = [
        f"account      {user['username']}, user {user['id']}{guilds}",
        f"application  {application['name']}, {application['id']}",
        f"gateway      {facts['url']}",
        f"shards       {facts['shards']} recommended",
        f"identifies   {identifies['remaining']} of {identifies['total']} left, {when}",
        f"concurrency  {identifies['max_concurrency']} at a time, each bucket once in 5 s",
    ]
    intents = facts["privileged_intents"]
    lines += [f"intent       {name}: {state}" for name, state in intents.items()]
    if "not granted" in intents.values():
        lines.append(f"             to enable one: {WHERE_TO_ENABLE}")
    return "\n".join(lines)
