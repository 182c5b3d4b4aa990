"""A plausible ``d`` for each of the 79 dispatch events (protocol, section 14). Pure, from a random source."""

import random
from collections.abc import Callable
from typing import Any

from ..intents import EVENT_INTENTS
from .world import Guild, World

WHEN = "2026-11-24T12:00:00.000000+00:00"

WORDS = """
    the a bot guild shard event gateway queue thread reply message server channel role user please thanks and or not
    you they it is was will can could should when where why how many more less first last next again never always play
    game song music video stream voice chat room board team match level score round lost won draw start stop open close
    read write send wait look find keep good bad old new small large fast slow early late today tomorrow monday we
""".split()  # noqa: SIM905 - a list would take a line for each


class Maker:
    """Makes events about one world."""

    def __init__(self, world: World, source: random.Random) -> None:
        self.world = world
        self.random = source

    def make(self, name: str, guild: Guild | None = None) -> Any:
        """Data for event ``name``, in ``guild`` or one by chance. Raises KeyError for an undocumented name."""
        EVENT_INTENTS[name]
        if guild is None and self.world.guilds:
            guild = self.random.choice(list(self.world.guilds.values()))
        if guild is None:
            guild = Guild(0, 41771983423143937, 3, self.world.seed, self.world.bot)
        maker = MAKERS.get(name)
        return maker(self, guild) if maker is not None else self.general(name, guild)

    # ---------------------------------------------------------------- parts

    def id(self) -> str:
        return str((300_000_000_000 + self.random.randrange(1 << 36)) << 22)

    def number(self, guild: Guild) -> int:
        return self.random.randrange(guild.member_count)

    def text(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randrange(3, 25)))

    def partial_member(self, guild: Guild, number: int) -> dict[str, Any]:
        return {key: value for key, value in guild.member(number).items() if key != "user"}

    # ---------------------------------------------------------------- events

    def message(self, guild: Guild) -> dict[str, Any]:
        number = self.number(guild)
        return {
            "id": self.id(),
            "channel_id": guild.text_channel,
            "guild_id": guild.id,
            "author": guild.user(number),
            "member": self.partial_member(guild, number),
            "content": self.text(),
            "timestamp": WHEN,
            "edited_timestamp": None,
            "tts": False,
            "mention_everyone": False,
            "mentions": [],
            "mention_roles": [],
            "attachments": [],
            "embeds": [],
            "components": [],
            "pinned": False,
            "type": 0,
            "flags": 0,
            "channel_type": 0,
            "nonce": self.id(),
        }

    def presence(self, guild: Guild) -> dict[str, Any]:
        number = self.number(guild)
        status = self.random.choice(("online", "idle", "dnd", "offline"))
        activities = [] if status == "offline" else [make(self) for make in self.random.choice(ACTIVITIES)]
        return guild.presence(number) | {
            "status": status,
            "activities": activities,
            "client_status": {} if status == "offline" else {"desktop": status},
        }

    def game(self) -> dict[str, Any]:
        return {
            "id": f"{self.random.getrandbits(60):015x}",
            "name": self.random.choice(("Chess", "Go", "Factory Game")),
            "type": 0,
            "created_at": self.milliseconds(),
            "timestamps": {"start": self.milliseconds()},
            "application_id": self.id(),
            "details": self.text(),
            "state": self.text(),
            "assets": {"large_image": self.id(), "large_text": self.text()},
        }

    def song(self) -> dict[str, Any]:
        """What a linked music service shows."""
        start = self.milliseconds()
        return {
            "id": "spotify:1",
            "name": "Spotify",
            "type": 2,
            "created_at": start,
            "timestamps": {"start": start, "end": start + self.random.randrange(60_000, 400_000)},
            "details": self.text(),
            "state": self.text(),
            "session_id": f"{self.random.getrandbits(128):032x}",
            "sync_id": f"{self.random.getrandbits(88):022x}",
            "party": {"id": f"spotify:{self.id()}"},
            "assets": {"large_image": f"spotify:{self.random.getrandbits(160):040x}", "large_text": self.text()},
            "flags": 48,
        }

    def custom_status(self) -> dict[str, Any]:
        return {
            "id": "custom",
            "name": "Custom Status",
            "type": 4,
            "created_at": self.milliseconds(),
            "state": self.text(),
            "emoji": {"name": "x", "id": self.id(), "animated": False},
        }

    def milliseconds(self) -> int:
        return 1_780_000_000_000 + self.random.randrange(10**10)

    def typing(self, guild: Guild) -> dict[str, Any]:
        number = self.number(guild)
        return {
            "channel_id": guild.text_channel,
            "guild_id": guild.id,
            "user_id": guild.user(number)["id"],
            "timestamp": 1_780_000_000 + self.random.randrange(10**6),
            "member": guild.member(number),
        }

    def member(self, guild: Guild) -> dict[str, Any]:
        return {"guild_id": guild.id, **guild.member(self.number(guild))}

    def user_in_guild(self, guild: Guild) -> dict[str, Any]:
        return {"guild_id": guild.id, "user": guild.user(self.number(guild))}

    def general(self, name: str, guild: Guild) -> dict[str, Any]:
        """Events that differ by few fields: the ids they name, and what is theirs alone."""
        base: dict[str, Any] = {"guild_id": guild.id}
        for prefix, extra in EXTRAS:
            if name.startswith(prefix):
                base |= extra(self, guild)
        return base


#: What members are doing, each combination as likely as the next.
ACTIVITIES: tuple[tuple[Callable[[Maker], dict[str, Any]], ...], ...] = (
    (Maker.game,),
    (Maker.song,),
    (Maker.custom_status, Maker.game),
    (Maker.custom_status, Maker.song),
)


def channel(maker: Maker, guild: Guild) -> dict[str, Any]:
    return {"guild_id": guild.id, **guild.channels()[0]}


def thread(maker: Maker, guild: Guild) -> dict[str, Any]:
    metadata = {"archived": False, "auto_archive_duration": 1440, "archive_timestamp": WHEN, "locked": False}
    return {
        "id": maker.id(),
        "guild_id": guild.id,
        "parent_id": guild.text_channel,
        "owner_id": guild.user(0)["id"],
        "type": 11,
        "name": "a thread",
        "last_message_id": None,
        "message_count": 0,
        "member_count": 1,
        "rate_limit_per_user": 0,
        "thread_metadata": metadata,
    }


def interaction(maker: Maker, guild: Guild) -> dict[str, Any]:
    return {
        "id": maker.id(),
        "application_id": maker.world.user_id,
        "type": 2,
        "token": "interaction-token",
        "version": 1,
        "guild_id": guild.id,
        "channel_id": guild.text_channel,
        "member": guild.member(maker.number(guild)) | {"permissions": "1071698660929"},
        "data": {"id": maker.id(), "name": "ping", "type": 1},
        "locale": "en-US",
        "guild_locale": "en-US",
        "entitlements": [],
        "authorizing_integration_owners": {},
    }


def in_message(maker: Maker, guild: Guild) -> dict[str, Any]:
    user = guild.user(maker.number(guild))["id"]
    return {"user_id": user, "channel_id": guild.text_channel, "message_id": maker.id()}


def entitlement(maker: Maker, guild: Guild) -> dict[str, Any]:
    ids = {"id": maker.id(), "sku_id": maker.id(), "application_id": maker.world.user_id}
    return ids | {"user_id": maker.id(), "type": 8, "deleted": False, "starts_at": None, "ends_at": None}


def subscription(maker: Maker, guild: Guild) -> dict[str, Any]:
    ids = {"id": maker.id(), "user_id": maker.id(), "sku_ids": [maker.id()], "entitlement_ids": [maker.id()]}
    return ids | {"current_period_start": WHEN, "current_period_end": WHEN, "status": 0, "canceled_at": None}


MAKERS: dict[str, Callable[[Maker, Guild], Any]] = {
    "READY": lambda maker, guild: {"v": 10, "session_id": "0" * 32, "resume_gateway_url": "wss://gateway.test"},
    "RESUMED": lambda maker, guild: {"_trace": []},
    "RATE_LIMITED": lambda maker, guild: {"opcode": 8, "retry_after": 29.457, "meta": {"guild_id": guild.id}},
    "CHANNEL_CREATE": channel,
    "CHANNEL_UPDATE": channel,
    "CHANNEL_DELETE": channel,
    "THREAD_CREATE": lambda maker, guild: thread(maker, guild) | {"newly_created": True},
    "THREAD_UPDATE": thread,
    "THREAD_DELETE": lambda maker, guild: {
        key: value for key, value in thread(maker, guild).items() if key in ("id", "guild_id", "parent_id", "type")
    },
    "ENTITLEMENT_CREATE": entitlement,
    "ENTITLEMENT_UPDATE": entitlement,
    "ENTITLEMENT_DELETE": entitlement,
    "SUBSCRIPTION_CREATE": subscription,
    "SUBSCRIPTION_UPDATE": subscription,
    "SUBSCRIPTION_DELETE": subscription,
    "GUILD_CREATE": lambda maker, guild: guild.properties | {"member_count": guild.member_count, "unavailable": False},
    "GUILD_UPDATE": lambda maker, guild: guild.properties,
    "GUILD_DELETE": lambda maker, guild: {"id": guild.id, "unavailable": True},
    "GUILD_BAN_ADD": Maker.user_in_guild,
    "GUILD_BAN_REMOVE": Maker.user_in_guild,
    "GUILD_MEMBER_ADD": Maker.member,
    "GUILD_MEMBER_UPDATE": Maker.member,
    "GUILD_MEMBER_REMOVE": Maker.user_in_guild,
    "GUILD_MEMBERS_CHUNK": lambda maker, guild: {
        "guild_id": guild.id,
        "members": [guild.member(0)],
        "chunk_index": 0,
        "chunk_count": 1,
    },
    "INTERACTION_CREATE": interaction,
    "MESSAGE_CREATE": Maker.message,
    "MESSAGE_UPDATE": lambda maker, guild: maker.message(guild) | {"edited_timestamp": WHEN},
    "MESSAGE_DELETE": lambda maker, guild: {"id": maker.id(), "channel_id": guild.text_channel, "guild_id": guild.id},
    "PRESENCE_UPDATE": Maker.presence,
    "TYPING_START": Maker.typing,
    "USER_UPDATE": lambda maker, guild: maker.world.bot,
    "VOICE_STATE_UPDATE": lambda maker, guild: (
        {"guild_id": guild.id, "member": guild.member(1 % guild.member_count), **maker.world.voice_states(guild)[0]}
        if guild.member_count > 1
        else {"guild_id": guild.id, "channel_id": None, "user_id": guild.user(0)["id"]}
    ),
}

#: For the rest: a prefix of the name, and the fields it stands for. Several may apply.
EXTRAS: tuple[tuple[str, Callable[[Maker, Guild], dict[str, Any]]], ...] = (
    (
        "APPLICATION_COMMAND_PERMISSIONS",
        lambda m, g: {"id": m.id(), "application_id": m.world.user_id, "permissions": []},
    ),
    (
        "AUTO_MODERATION_RULE",
        lambda m, g: {
            "id": m.id(),
            "name": "rule",
            "creator_id": g.user(0)["id"],
            "event_type": 1,
            "trigger_type": 1,
            "trigger_metadata": {},
            "actions": [],
            "enabled": True,
            "exempt_roles": [],
            "exempt_channels": [],
        },
    ),
    (
        "AUTO_MODERATION_ACTION",
        lambda m, g: {
            "action": {"type": 1},
            "rule_id": m.id(),
            "rule_trigger_type": 1,
            "user_id": g.user(m.number(g))["id"],
            "channel_id": g.text_channel,
            "content": m.text(),
            "matched_keyword": "a",
            "matched_content": "a",
        },
    ),
    ("CHANNEL_INFO", lambda m, g: {"channels": []}),
    ("CHANNEL_PINS", lambda m, g: {"channel_id": g.text_channel, "last_pin_timestamp": WHEN}),
    ("THREAD_LIST_SYNC", lambda m, g: {"channel_ids": [g.text_channel], "threads": [thread(m, g)], "members": []}),
    ("THREAD_MEMBER_", lambda m, g: {"id": m.id(), "user_id": m.world.user_id, "join_timestamp": WHEN, "flags": 0}),
    ("THREAD_MEMBERS_", lambda m, g: {"id": m.id(), "member_count": 2, "removed_member_ids": [m.id()]}),
    (
        "GUILD_AUDIT_LOG",
        lambda m, g: {"id": m.id(), "action_type": 20, "user_id": g.user(0)["id"], "target_id": m.id()},
    ),
    ("GUILD_EMOJIS", lambda m, g: {"emojis": []}),
    ("GUILD_STICKERS", lambda m, g: {"stickers": []}),
    ("GUILD_ROLE_CREATE", lambda m, g: {"role": g.roles()[1]}),
    ("GUILD_ROLE_UPDATE", lambda m, g: {"role": g.roles()[1]}),
    ("GUILD_ROLE_DELETE", lambda m, g: {"role_id": g.role}),
    (
        "GUILD_SCHEDULED_EVENT_",
        lambda m, g: {
            "id": m.id(),
            "channel_id": g.voice_channel,
            "name": "event",
            "scheduled_start_time": WHEN,
            "scheduled_end_time": None,
            "privacy_level": 2,
            "status": 1,
            "entity_type": 2,
            "entity_id": None,
            "entity_metadata": None,
            "creator_id": g.user(0)["id"],
        },
    ),
    ("GUILD_SCHEDULED_EVENT_USER_", lambda m, g: {"guild_scheduled_event_id": m.id(), "user_id": g.user(0)["id"]}),
    ("GUILD_SOUNDBOARD_SOUND_", lambda m, g: g.sounds()[0]),
    ("GUILD_SOUNDBOARD_SOUNDS_", lambda m, g: {"soundboard_sounds": g.sounds()}),
    ("SOUNDBOARD_SOUNDS", lambda m, g: {"soundboard_sounds": g.sounds()}),
    (
        "INTEGRATION_",
        lambda m, g: {
            "id": m.id(),
            "name": "integration",
            "type": "discord",
            "enabled": True,
            "account": {"id": m.id(), "name": "account"},
        },
    ),
    ("INVITE_", lambda m, g: {"channel_id": g.text_channel, "code": "abcdef"}),
    (
        "INVITE_CREATE",
        lambda m, g: {
            "created_at": WHEN,
            "max_age": 86400,
            "max_uses": 0,
            "temporary": False,
            "uses": 0,
            "expires_at": WHEN,
            "inviter": g.user(m.number(g)),
        },
    ),
    ("MESSAGE_DELETE_BULK", lambda m, g: {"ids": [m.id(), m.id()], "channel_id": g.text_channel}),
    (
        "MESSAGE_REACTION",
        lambda m, g: in_message(m, g) | {"emoji": {"id": None, "name": "🔥"}, "burst": False, "type": 0},
    ),
    ("MESSAGE_POLL_VOTE", lambda m, g: in_message(m, g) | {"answer_id": 1}),
    (
        "STAGE_INSTANCE",
        lambda m, g: {
            "id": m.id(),
            "channel_id": g.voice_channel,
            "topic": "stage",
            "privacy_level": 2,
            "discoverable_disabled": False,
            "guild_scheduled_event_id": None,
        },
    ),
    (
        "VOICE_CHANNEL_EFFECT",
        lambda m, g: {
            "channel_id": g.voice_channel,
            "user_id": g.user(m.number(g))["id"],
            "animation_type": 1,
            "animation_id": 3,
        },
    ),
    ("VOICE_CHANNEL_START", lambda m, g: {"id": g.voice_channel, "voice_start_time": 1_780_000_000}),
    ("VOICE_CHANNEL_STATUS", lambda m, g: {"id": g.voice_channel, "status": "playing chess"}),
    ("VOICE_SERVER", lambda m, g: {"token": "voice-token", "endpoint": "voice.test:443"}),
    ("WEBHOOKS", lambda m, g: {"channel_id": g.text_channel}),
)
