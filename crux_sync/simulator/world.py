"""Guilds, channels, roles, members and presences from a seed: the same seed gives the same bytes. Pure.

Members are made when asked for, from the seed and their number, so a guild of 25,000 costs nothing until then.
"""

import random
from functools import cached_property
from typing import Any

from ..intents import PRIVILEGED, Intents
from .sessions import ServerSession

#: Ids are times: milliseconds since 2015, shifted by 22. These lie in 2021.
FIRST_ID = 200_000_000_000 << 22

STATUSES = ("online", "online", "idle", "dnd", "offline", "offline")

NAMES = (
    "ada",
    "bo",
    "cleo",
    "dan",
    "eve",
    "finn",
    "gus",
    "hana",
    "ivo",
    "june",
    "kai",
    "lea",
    "max",
    "nia",
    "otto",
    "pia",
)

#: Above this many members GUILD_CREATE has only the bot and those in voice (15.4).
HUGE_GUILD = 75_000


class Guild:
    """One guild. Member 0 is the bot; member 1 is in voice; every third member is offline.

    ``id``, ``name``, ``member_count``, ``text_channel``, ``voice_channel`` and ``role`` may be read by any thread. Ids
    are strings.
    """

    def __init__(self, number: int, guild_id: int, member_count: int, seed: int, bot: dict[str, Any]) -> None:
        self.id = str(guild_id)
        self.name = f"Guild {number}"
        self.member_count = max(member_count, 1)
        self.text_channel = str(guild_id + 1)
        self.voice_channel = str(guild_id + 2)
        self.role = str(guild_id + 3)
        self._first_user = guild_id + 1000
        self._seed = f"{seed}:{guild_id}"
        self._bot = bot

    # ---------------------------------------------------------------- members

    def user(self, number: int) -> dict[str, Any]:
        if number == 0:
            return self._bot
        name = f"{NAMES[number % len(NAMES)]}{number}"
        return {
            "id": str(self._first_user + number),
            "username": name,
            "global_name": name.title(),
            "discriminator": "0",
            "avatar": f"{random.Random(f'{self._seed}:{number}').getrandbits(128):032x}",
            "public_flags": 0,
        }

    def member(self, number: int) -> dict[str, Any]:
        return {
            "user": self.user(number),
            "nick": None,
            "avatar": None,
            "roles": [self.role] if number % 2 else [],
            "joined_at": "2026-01-02T03:04:05.000000+00:00",
            "premium_since": None,
            "deaf": False,
            "mute": False,
            "flags": 0,
            "pending": False,
        }

    def status(self, number: int) -> str:
        return STATUSES[number % len(STATUSES)] if number else "online"

    def is_online(self, number: int) -> bool:
        return self.status(number) != "offline"

    def presence(self, number: int) -> dict[str, Any]:
        status = self.status(number)
        return {
            "user": {"id": self.user(number)["id"]},
            "guild_id": self.id,
            "status": status,
            "activities": [],
            "client_status": {} if status == "offline" else {"web" if number == 0 else "desktop": status},
        }

    def matching(self, query: str, limit: int) -> list[int]:
        """Numbers of the members whose name starts with ``query``; a non-empty query gives at most 100 (11.4)."""
        if not query:
            numbers = range(self.member_count)
            return list(numbers[:limit] if limit else numbers)
        found: list[int] = []
        for number in range(self.member_count):
            if self.user(number)["username"].startswith(query.lower()):
                found.append(number)
                if len(found) >= min(limit or 100, 100):
                    break
        return found

    def members_by_id(self, ids: list[str]) -> tuple[list[int], list[str]]:
        """Numbers of the members with these ids, and the ids of no member."""
        found, not_found = [], []
        for one in ids:
            number = 0 if one == self._bot["id"] else int(one) - self._first_user
            if one == self._bot["id"] or 0 < number < self.member_count:
                found.append(number)
            else:
                not_found.append(one)
        return found, not_found

    # ---------------------------------------------------------------- objects

    def sounds(self) -> list[dict[str, Any]]:
        return [
            {"sound_id": str(int(self.id) + 9), "name": "quack", "volume": 1.0, "emoji_id": None, "available": True}
        ]

    def channels(self) -> list[dict[str, Any]]:
        text = {"id": self.text_channel, "type": 0, "name": "general", "position": 0, "permission_overwrites": []}
        voice = {"id": self.voice_channel, "type": 2, "name": "voice", "position": 1, "permission_overwrites": []}
        text |= {"topic": None, "nsfw": False, "parent_id": None, "last_message_id": None, "rate_limit_per_user": 0}
        voice |= {"bitrate": 64000, "user_limit": 0, "nsfw": False, "parent_id": None, "rtc_region": None}
        return [text, voice]

    def roles(self) -> list[dict[str, Any]]:
        def role(role_id: str, name: str, position: int) -> dict[str, Any]:
            return {
                "id": role_id,
                "name": name,
                "color": 0,
                "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
                "hoist": False,
                "icon": None,
                "unicode_emoji": None,
                "position": position,
                "permissions": "1071698660929",
                "managed": False,
                "mentionable": False,
                "flags": 0,
            }

        return [role(self.id, "@everyone", 0), role(self.role, "member", 1)]

    @cached_property
    def properties(self) -> dict[str, Any]:
        """The guild object, without what only GUILD_CREATE has."""
        return {
            "id": self.id,
            "name": self.name,
            "icon": None,
            "splash": None,
            "discovery_splash": None,
            "owner_id": self.user(min(1, self.member_count - 1))["id"],
            "afk_channel_id": None,
            "afk_timeout": 300,
            "verification_level": 1,
            "default_message_notifications": 0,
            "explicit_content_filter": 0,
            "roles": self.roles(),
            "emojis": [],
            "stickers": [],
            "features": [],
            "mfa_level": 0,
            "application_id": None,
            "system_channel_id": None,
            "system_channel_flags": 0,
            "rules_channel_id": None,
            "max_presences": None,
            "max_members": 500_000,
            "vanity_url_code": None,
            "description": None,
            "banner": None,
            "premium_tier": 0,
            "premium_subscription_count": 0,
            "preferred_locale": "en-US",
            "public_updates_channel_id": None,
            "max_video_channel_users": 25,
            "max_stage_video_channel_users": 50,
            "nsfw_level": 0,
            "nsfw": False,
            "premium_progress_bar_enabled": False,
            "safety_alerts_channel_id": None,
            "incidents_data": None,
        }


def flags_for(granted_intents: int) -> int:
    """The application flags that say which privileged intents are granted, as to a verified bot."""
    flags = {Intents.GUILD_PRESENCES: 1 << 12, Intents.GUILD_MEMBERS: 1 << 14, Intents.MESSAGE_CONTENT: 1 << 18}
    return sum(flag for intent, flag in flags.items() if granted_intents & intent)


class World:
    """All guilds, and the bot itself."""

    def __init__(
        self, seed: int, shards: int, guilds_per_shard: int, members: int, granted_intents: int = int(PRIVILEGED)
    ) -> None:
        self.seed = seed
        self._random = random.Random(seed)
        self.user_id = str(FIRST_ID + (seed << 8) + 7)
        self.bot = {
            "id": self.user_id,
            "username": "crux",
            "global_name": None,
            "discriminator": "0",
            "avatar": None,
            "bot": True,
            "verified": True,
            "mfa_enabled": True,
            "flags": 0,
            "public_flags": 0,
            "email": None,
        }
        self.guilds: dict[int, Guild] = {}
        #: The last presence each shard has set.
        self.presences: dict[int, dict[str, Any]] = {}
        #: How op 4 is answered: "both", "swapped", "none", "no endpoint".
        self.voice = "both"
        self.application_id = self.user_id
        self.application_flags = flags_for(granted_intents)
        #: Guilds that READY names and a recording brings.
        self.recorded_guilds: list[int] = []
        for number in range(shards * guilds_per_shard):
            # Consecutive times: guild n lies on shard n % shards, so that every shard has its share.
            self.add_guild(members, FIRST_ID + ((number + (-(FIRST_ID >> 22)) % shards) << 22))

    def add_guild(self, members: int, guild_id: int | None = None) -> Guild:
        """One more guild; ``guild_id`` decides its shard."""
        if guild_id is None:
            guild_id = FIRST_ID + (self._random.randrange(1 << 32) << 22)
        guild = Guild(len(self.guilds), guild_id, members, self.seed, self.bot)
        self.guilds[guild_id] = guild
        return guild

    def guilds_of(self, shard_id: int, shard_count: int) -> list[Guild]:
        return [guild for guild_id, guild in self.guilds.items() if (guild_id >> 22) % shard_count == shard_id]

    def guild(self, guild_id: Any, session: ServerSession) -> Guild | None:
        """A guild by id, if it is on the session's shard."""
        guild = self.guilds.get(int(guild_id))
        return guild if guild is not None and guild in self.guilds_of(session.shard_id, session.shard_count) else None

    def adopt(self, ready: dict[int, dict[str, Any]]) -> None:
        """Be the Discord that these READYs tell of: its account, and its guilds instead of ours."""
        for data in ready.values():
            user, application = data.get("user"), data.get("application")
            if isinstance(user, dict) and "id" in user:
                self.bot, self.user_id = user, str(user["id"])
            if isinstance(application, dict) and "id" in application:
                self.application_id = str(application["id"])
                self.application_flags = application.get("flags", self.application_flags)
        self.guilds = {}
        self.recorded_guilds = [int(guild["id"]) for data in ready.values() for guild in data.get("guilds") or ()]

    def ready(self, session: ServerSession, resume_url: str, *, with_shard: bool) -> dict[str, Any]:
        ids = [int(guild.id) for guild in self.guilds_of(session.shard_id, session.shard_count)]
        ids += [one for one in self.recorded_guilds if (one >> 22) % session.shard_count == session.shard_id]
        ready = {
            "v": 10,
            "user": self.bot,
            "guilds": [{"id": str(guild_id), "unavailable": True} for guild_id in ids],
            "session_id": session.session_id,
            "resume_gateway_url": resume_url,
            "session_type": "normal",
            "private_channels": [],
            "relationships": [],
            "user_settings": {},
            "application": {"id": self.application_id, "flags": self.application_flags},
        }
        return ready | ({"shard": [session.shard_id, session.shard_count]} if with_shard else {})

    def guild_create(self, guild: Guild, session: ServerSession) -> dict[str, Any]:
        """GUILD_CREATE with the members and presences that 15.4 grants this session."""
        with_presences = Intents.GUILD_PRESENCES in session.intents
        large = guild.member_count > session.large_threshold
        in_voice = [number for number in (0, 1) if number < guild.member_count]
        if not with_presences or guild.member_count > HUGE_GUILD:
            members, presences = in_voice, in_voice
        elif large:
            members = [one for one in range(guild.member_count) if one % 2 or guild.is_online(one)]
            presences = [one for one in members if guild.is_online(one)]
        else:
            members = presences = list(range(guild.member_count))
        return guild.properties | {
            "joined_at": "2026-01-02T03:04:05.000000+00:00",
            "large": large,
            "unavailable": False,
            "member_count": guild.member_count,
            "voice_states": self.voice_states(guild),
            "members": [guild.member(number) for number in members],
            "channels": guild.channels(),
            "threads": [],
            "presences": [guild.presence(number) for number in presences],
            "stage_instances": [],
            "guild_scheduled_events": [],
            "soundboard_sounds": [],
        }

    def voice_states(self, guild: Guild) -> list[dict[str, Any]]:
        if guild.member_count < 2:
            return []
        user = guild.user(1)["id"]
        flags = dict.fromkeys(("deaf", "mute", "self_deaf", "self_mute", "self_video", "suppress"), False)
        state = {"channel_id": guild.voice_channel, "user_id": user, "session_id": "0" * 32}
        return [state | flags | {"request_to_speak_timestamp": None}]
