"""Intents, and which of them each dispatch event needs (protocol, sections 10 and 14)."""

import difflib
from enum import IntFlag
from typing import Final


class Intents(IntFlag):
    """What a bot asks to be told about. Combine with ``|``; an int is accepted wherever one is expected."""

    GUILDS = 1 << 0
    GUILD_MEMBERS = 1 << 1
    GUILD_MODERATION = 1 << 2
    GUILD_EXPRESSIONS = 1 << 3
    GUILD_INTEGRATIONS = 1 << 4
    GUILD_WEBHOOKS = 1 << 5
    GUILD_INVITES = 1 << 6
    GUILD_VOICE_STATES = 1 << 7
    GUILD_PRESENCES = 1 << 8
    GUILD_MESSAGES = 1 << 9
    GUILD_MESSAGE_REACTIONS = 1 << 10
    GUILD_MESSAGE_TYPING = 1 << 11
    DIRECT_MESSAGES = 1 << 12
    DIRECT_MESSAGE_REACTIONS = 1 << 13
    DIRECT_MESSAGE_TYPING = 1 << 14
    MESSAGE_CONTENT = 1 << 15
    GUILD_SCHEDULED_EVENTS = 1 << 16
    AUTO_MODERATION_CONFIGURATION = 1 << 20
    AUTO_MODERATION_EXECUTION = 1 << 21
    GUILD_MESSAGE_POLLS = 1 << 24
    DIRECT_MESSAGE_POLLS = 1 << 25

    @classmethod
    def none(cls) -> "Intents":
        """No intent: only events that need none, such as interactions."""
        return cls(0)

    @classmethod
    def all(cls) -> "Intents":
        """Every documented intent, the privileged ones included."""
        return cls(ALL)

    @classmethod
    def privileged(cls) -> "Intents":
        """The three that must be enabled for the bot in the developer portal."""
        return cls(PRIVILEGED)

    @classmethod
    def default(cls) -> "Intents":
        """Every intent that needs no permission: all but the privileged ones."""
        return cls(ALL & ~PRIVILEGED)

    def names(self) -> list[str]:
        """The names of the set flags, in bit order."""
        return [flag.name for flag in Intents if flag in self and flag.name is not None]


ALL: Final = sum(flag.value for flag in Intents)
PRIVILEGED: Final = Intents.GUILD_MEMBERS | Intents.GUILD_PRESENCES | Intents.MESSAGE_CONTENT
NO_INTENT: Final = Intents(0)

#: Every dispatch event Discord documents, with the intents of which any one brings it.
#: Two intents stand for "in a guild" and "in a direct message". No intent: it is always sent.
EVENT_INTENTS: Final[dict[str, Intents]] = {
    "READY": NO_INTENT,
    "RESUMED": NO_INTENT,
    "RATE_LIMITED": NO_INTENT,
    "APPLICATION_COMMAND_PERMISSIONS_UPDATE": NO_INTENT,
    "AUTO_MODERATION_RULE_CREATE": Intents.AUTO_MODERATION_CONFIGURATION,
    "AUTO_MODERATION_RULE_UPDATE": Intents.AUTO_MODERATION_CONFIGURATION,
    "AUTO_MODERATION_RULE_DELETE": Intents.AUTO_MODERATION_CONFIGURATION,
    "AUTO_MODERATION_ACTION_EXECUTION": Intents.AUTO_MODERATION_EXECUTION,
    "CHANNEL_CREATE": Intents.GUILDS,
    "CHANNEL_UPDATE": Intents.GUILDS,
    "CHANNEL_DELETE": Intents.GUILDS,
    "CHANNEL_INFO": NO_INTENT,
    "CHANNEL_PINS_UPDATE": Intents.GUILDS | Intents.DIRECT_MESSAGES,
    "THREAD_CREATE": Intents.GUILDS,
    "THREAD_UPDATE": Intents.GUILDS,
    "THREAD_DELETE": Intents.GUILDS,
    "THREAD_LIST_SYNC": Intents.GUILDS,
    "THREAD_MEMBER_UPDATE": Intents.GUILDS,
    "THREAD_MEMBERS_UPDATE": Intents.GUILDS | Intents.GUILD_MEMBERS,
    "ENTITLEMENT_CREATE": NO_INTENT,
    "ENTITLEMENT_UPDATE": NO_INTENT,
    "ENTITLEMENT_DELETE": NO_INTENT,
    "GUILD_CREATE": Intents.GUILDS,
    "GUILD_UPDATE": Intents.GUILDS,
    "GUILD_DELETE": Intents.GUILDS,
    "GUILD_AUDIT_LOG_ENTRY_CREATE": Intents.GUILD_MODERATION,
    "GUILD_BAN_ADD": Intents.GUILD_MODERATION,
    "GUILD_BAN_REMOVE": Intents.GUILD_MODERATION,
    "GUILD_EMOJIS_UPDATE": Intents.GUILD_EXPRESSIONS,
    "GUILD_STICKERS_UPDATE": Intents.GUILD_EXPRESSIONS,
    "GUILD_INTEGRATIONS_UPDATE": Intents.GUILD_INTEGRATIONS,
    "GUILD_MEMBER_ADD": Intents.GUILD_MEMBERS,
    "GUILD_MEMBER_REMOVE": Intents.GUILD_MEMBERS,
    "GUILD_MEMBER_UPDATE": Intents.GUILD_MEMBERS,
    "GUILD_MEMBERS_CHUNK": NO_INTENT,
    "GUILD_ROLE_CREATE": Intents.GUILDS,
    "GUILD_ROLE_UPDATE": Intents.GUILDS,
    "GUILD_ROLE_DELETE": Intents.GUILDS,
    "GUILD_SCHEDULED_EVENT_CREATE": Intents.GUILD_SCHEDULED_EVENTS,
    "GUILD_SCHEDULED_EVENT_UPDATE": Intents.GUILD_SCHEDULED_EVENTS,
    "GUILD_SCHEDULED_EVENT_DELETE": Intents.GUILD_SCHEDULED_EVENTS,
    "GUILD_SCHEDULED_EVENT_USER_ADD": Intents.GUILD_SCHEDULED_EVENTS,
    "GUILD_SCHEDULED_EVENT_USER_REMOVE": Intents.GUILD_SCHEDULED_EVENTS,
    "GUILD_SOUNDBOARD_SOUND_CREATE": Intents.GUILD_EXPRESSIONS,
    "GUILD_SOUNDBOARD_SOUND_UPDATE": Intents.GUILD_EXPRESSIONS,
    "GUILD_SOUNDBOARD_SOUND_DELETE": Intents.GUILD_EXPRESSIONS,
    "GUILD_SOUNDBOARD_SOUNDS_UPDATE": Intents.GUILD_EXPRESSIONS,
    "SOUNDBOARD_SOUNDS": NO_INTENT,
    "INTEGRATION_CREATE": Intents.GUILD_INTEGRATIONS,
    "INTEGRATION_UPDATE": Intents.GUILD_INTEGRATIONS,
    "INTEGRATION_DELETE": Intents.GUILD_INTEGRATIONS,
    "INTERACTION_CREATE": NO_INTENT,
    "INVITE_CREATE": Intents.GUILD_INVITES,
    "INVITE_DELETE": Intents.GUILD_INVITES,
    "MESSAGE_CREATE": Intents.GUILD_MESSAGES | Intents.DIRECT_MESSAGES,
    "MESSAGE_UPDATE": Intents.GUILD_MESSAGES | Intents.DIRECT_MESSAGES,
    "MESSAGE_DELETE": Intents.GUILD_MESSAGES | Intents.DIRECT_MESSAGES,
    "MESSAGE_DELETE_BULK": Intents.GUILD_MESSAGES,
    "MESSAGE_REACTION_ADD": Intents.GUILD_MESSAGE_REACTIONS | Intents.DIRECT_MESSAGE_REACTIONS,
    "MESSAGE_REACTION_REMOVE": Intents.GUILD_MESSAGE_REACTIONS | Intents.DIRECT_MESSAGE_REACTIONS,
    "MESSAGE_REACTION_REMOVE_ALL": Intents.GUILD_MESSAGE_REACTIONS | Intents.DIRECT_MESSAGE_REACTIONS,
    "MESSAGE_REACTION_REMOVE_EMOJI": Intents.GUILD_MESSAGE_REACTIONS | Intents.DIRECT_MESSAGE_REACTIONS,
    "PRESENCE_UPDATE": Intents.GUILD_PRESENCES,
    "STAGE_INSTANCE_CREATE": Intents.GUILDS,
    "STAGE_INSTANCE_UPDATE": Intents.GUILDS,
    "STAGE_INSTANCE_DELETE": Intents.GUILDS,
    "SUBSCRIPTION_CREATE": NO_INTENT,
    "SUBSCRIPTION_UPDATE": NO_INTENT,
    "SUBSCRIPTION_DELETE": NO_INTENT,
    "TYPING_START": Intents.GUILD_MESSAGE_TYPING | Intents.DIRECT_MESSAGE_TYPING,
    "USER_UPDATE": NO_INTENT,
    "VOICE_CHANNEL_EFFECT_SEND": Intents.GUILD_VOICE_STATES,
    "VOICE_CHANNEL_START_TIME_UPDATE": Intents.GUILDS,
    "VOICE_CHANNEL_STATUS_UPDATE": Intents.GUILDS,
    "VOICE_STATE_UPDATE": Intents.GUILD_VOICE_STATES,
    "VOICE_SERVER_UPDATE": NO_INTENT,
    "WEBHOOKS_UPDATE": Intents.GUILD_WEBHOOKS,
    "MESSAGE_POLL_VOTE_ADD": Intents.GUILD_MESSAGE_POLLS | Intents.DIRECT_MESSAGE_POLLS,
    "MESSAGE_POLL_VOTE_REMOVE": Intents.GUILD_MESSAGE_POLLS | Intents.DIRECT_MESSAGE_POLLS,
}

#: Shard life, told by this library; Discord never sends these.
SHARD_EVENTS: Final = frozenset(
    {"SHARD_CONNECTED", "SHARD_READY", "SHARD_RESUMED", "SHARD_DISCONNECTED", "SHARD_FAILED"}
)

#: Events whose message fields stay empty without MESSAGE_CONTENT (section 10.3).
CONTENT_EVENTS: Final = frozenset({"MESSAGE_CREATE", "MESSAGE_UPDATE", "AUTO_MODERATION_ACTION_EXECUTION"})


def advice_for_event(name: str, intents: Intents) -> str | None:
    """A warning for someone who listens to ``name`` with ``intents``; None when all is well."""
    if name in SHARD_EVENTS:
        return None
    if name not in EVENT_INTENTS:
        near = difflib.get_close_matches(name.upper(), [*EVENT_INTENTS, *SHARD_EVENTS], n=1)
        did_you_mean = f"; did you mean {near[0]!r}?" if near else ""
        return f"{name!r} is no documented gateway event{did_you_mean} It will be delivered if Discord sends it"
    needed = EVENT_INTENTS[name]
    if needed and not needed & intents:
        return f"{name} will never arrive: it needs {' or '.join(needed.names())}, which intents does not include"
    if name in CONTENT_EVENTS and Intents.MESSAGE_CONTENT not in intents:
        return (
            f"{name} without the MESSAGE_CONTENT intent: content, embeds, attachments, components and poll are "
            "empty, except in direct messages, mentions of the bot and its own messages"
        )
    return None
