"""What the server does with ops 3, 4, 8, 31 and 43 (protocol, sections 11 to 13 and 17.8). Pure."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..intents import Intents
from ..opcodes import Opcode

if TYPE_CHECKING:
    from .core import Core, Peer

CHUNK = 1000
LONGEST_NONCE = 32
MOST_USER_IDS = 100
ALL_MEMBERS_PERIOD = 30.0

Replies = Iterable[tuple[str, Any]]


# -------------------------------------------------------------------- shapes


def is_snowflake(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdigit())


def is_presence(data: dict[str, Any]) -> bool:
    return (
        {"since", "activities", "status", "afk"} <= set(data)
        and isinstance(data["activities"], list)
        and data["status"] in ("online", "dnd", "idle", "invisible", "offline")
        and isinstance(data["afk"], bool)
        and all(isinstance(one, dict) and "name" in one and "type" in one for one in data["activities"])
    )


def is_voice_state(data: dict[str, Any]) -> bool:
    return (
        is_snowflake(data.get("guild_id"))
        and "channel_id" in data
        and (data["channel_id"] is None or is_snowflake(data["channel_id"]))
        and isinstance(data.get("self_mute"), bool)
        and isinstance(data.get("self_deaf"), bool)
    )


def is_members_request(data: dict[str, Any]) -> bool:
    if not is_snowflake(data.get("guild_id")):
        return False
    if "query" in data:
        limit = data.get("limit")
        return isinstance(data["query"], str) and isinstance(limit, int) and limit >= 0
    ids = data.get("user_ids")
    return is_snowflake(ids) or (isinstance(ids, list) and all(is_snowflake(one) for one in ids))


def is_guild_ids(data: dict[str, Any]) -> bool:
    ids = data.get("guild_ids")
    return isinstance(ids, list) and all(is_snowflake(one) for one in ids)


def is_channel_info(data: dict[str, Any]) -> bool:
    return is_snowflake(data.get("guild_id")) and isinstance(data.get("fields"), list)


SHAPES: dict[Opcode, Callable[[dict[str, Any]], bool]] = {
    Opcode.PRESENCE_UPDATE: is_presence,
    Opcode.VOICE_STATE_UPDATE: is_voice_state,
    Opcode.REQUEST_GUILD_MEMBERS: is_members_request,
    Opcode.REQUEST_SOUNDBOARD_SOUNDS: is_guild_ids,
    Opcode.REQUEST_CHANNEL_INFO: is_channel_info,
}


def check_command(op: Opcode, data: Any) -> str | None:
    """The name of the rule that ``data`` breaks; None when its shape is right."""
    return None if isinstance(data, dict) and SHAPES[op](data) else "invalid_payload"


# -------------------------------------------------------------------- answers


def presence_update(core: "Core", peer: "Peer", data: dict[str, Any], now: float) -> Replies:
    """No answer; beyond five in 20 s the update is dropped without a word (18.24)."""
    times = peer.presences
    times.append(now)
    while times[0] <= now - 20.0:
        times.popleft()
    if len(times) > 5:
        core.violations.append("presence_rate")
    else:
        assert peer.session is not None
        core.world.presences[peer.session.shard_id] = data
    return ()


def voice_state_update(core: "Core", peer: "Peer", data: dict[str, Any], now: float) -> Replies:
    """Two events in either order; leaving is one (11.6). ``core.world.voice`` scripts the rest."""
    assert peer.session is not None
    guild = core.world.guild(data["guild_id"], peer.session)
    if guild is None:
        return ()
    channel_id = None if data["channel_id"] is None else str(data["channel_id"])
    state = {
        "guild_id": guild.id,
        "channel_id": channel_id,
        "user_id": core.world.user_id,
        "session_id": peer.session.session_id,
        "deaf": False,
        "mute": False,
        "self_deaf": data["self_deaf"],
        "self_mute": data["self_mute"],
        "self_video": False,
        "suppress": False,
        "request_to_speak_timestamp": None,
    }
    events = []
    if Intents.GUILD_VOICE_STATES in peer.session.intents:
        events.append(("VOICE_STATE_UPDATE", state))
    if channel_id is not None:
        server = {"token": "voice-token", "guild_id": guild.id, "endpoint": "voice.test:443"}
        events.append(("VOICE_SERVER_UPDATE", server))
    script = core.world.voice
    if script == "none":
        return ()
    if script == "swapped":
        events.reverse()
    elif script == "no endpoint":
        events = [(name, {**d, "endpoint": None} if "endpoint" in d else d) for name, d in events]
    return events


def guild_members(core: "Core", peer: "Peer", data: dict[str, Any], now: float) -> Iterator[tuple[str, Any]]:
    """GUILD_MEMBERS_CHUNKs of up to 1000 (13.5), or RATE_LIMITED (8.4)."""
    assert peer.session is not None
    intents = peer.session.intents
    guild = core.world.guild(data["guild_id"], peer.session)
    if guild is None:
        return
    nonce = data.get("nonce")
    nonce = nonce if isinstance(nonce, str) and len(nonce.encode()) <= LONGEST_NONCE else None
    echo = {} if nonce is None else {"nonce": nonce}
    not_found: list[Any] = []
    if "query" in data:
        if data["query"] == "" and data["limit"] == 0:
            if Intents.GUILD_MEMBERS not in intents:
                core.violations.append("all_members_without_intent")
                return
            retry_after = core.all_members.get(guild.id, -math.inf) + ALL_MEMBERS_PERIOD - now
            if retry_after > 0:
                core.violations.append("all_members_rate")
                meta = {"guild_id": guild.id, **echo}
                yield "RATE_LIMITED", {"opcode": 8, "retry_after": round(retry_after, 3), "meta": meta}
                return
            core.all_members[guild.id] = now
        found = guild.matching(data["query"], data["limit"])
    else:
        ids = data["user_ids"] if isinstance(data["user_ids"], list) else [data["user_ids"]]
        if len(ids) > MOST_USER_IDS:
            core.violations.append("too_many_user_ids")
        found, not_found = guild.members_by_id([str(one) for one in ids[:MOST_USER_IDS]])
    with_presences = data.get("presences") is True and Intents.GUILD_PRESENCES in intents
    yield from chunks(guild, list(found), not_found, with_presences, echo)


def chunks(
    guild: Any, numbers: list[int], not_found: list[Any], with_presences: bool, echo: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    count = max(1, math.ceil(len(numbers) / CHUNK))
    for index in range(count):
        part = numbers[index * CHUNK : (index + 1) * CHUNK]
        chunk = {
            "guild_id": guild.id,
            "members": [guild.member(number) for number in part],
            "chunk_index": index,
            "chunk_count": count,
            **echo,
        }
        if not_found and index == 0:
            # Ids that are not of the size of a snowflake come back as numbers (4.1).
            chunk["not_found"] = [int(one) if len(one) < 15 else one for one in not_found]
        if with_presences:
            chunk["presences"] = [guild.presence(number) for number in part if guild.is_online(number)]
        yield "GUILD_MEMBERS_CHUNK", chunk


def soundboard_sounds(core: "Core", peer: "Peer", data: dict[str, Any], now: float) -> Iterator[tuple[str, Any]]:
    assert peer.session is not None
    for guild_id in data["guild_ids"]:
        guild = core.world.guild(guild_id, peer.session)
        if guild is not None:
            yield "SOUNDBOARD_SOUNDS", {"guild_id": guild.id, "soundboard_sounds": guild.sounds()}


def channel_info(core: "Core", peer: "Peer", data: dict[str, Any], now: float) -> Replies:
    assert peer.session is not None
    guild = core.world.guild(data["guild_id"], peer.session)
    if guild is None:
        return ()
    known = {"status": "playing chess", "voice_start_time": 1_780_000_000}
    info = {name: known[name] for name in data["fields"] if name in known}
    return [("CHANNEL_INFO", {"guild_id": guild.id, "channels": [{"id": guild.voice_channel, **info}]})]


COMMANDS: dict[Opcode, Callable[["Core", "Peer", dict[str, Any], float], Replies]] = {
    Opcode.PRESENCE_UPDATE: presence_update,
    Opcode.VOICE_STATE_UPDATE: voice_state_update,
    Opcode.REQUEST_GUILD_MEMBERS: guild_members,
    Opcode.REQUEST_SOUNDBOARD_SOUNDS: soundboard_sounds,
    Opcode.REQUEST_CHANNEL_INFO: channel_info,
}
