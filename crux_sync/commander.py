"""Commands: what a bot may send, validated at the call, sent in order and never over the limit."""

import time
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any

from . import commands
from .collecting import (
    MEMBER_EVENTS,
    VOICE_EVENTS,
    Mailbox,
    MemberRequest,
    VoiceConnection,
    collect_voice,
)
from .commands import check_timeout, encode, snowflake
from .consumers import Consumers
from .errors import ConfigurationError, GatewayClosed
from .intents import Intents
from .limits import ALL_MEMBERS_PERIOD, GUARD
from .members import Part
from .presence import Presence
from .shard import Shard

Id = int | str


class Commander(Consumers):
    """The commands of a gateway.

    Each may be called from any thread, callbacks included. It waits, in the caller's thread, for the session and for
    the limits: 120 payloads in 60 s on each connection, heartbeats counted and never held up; 5 presences in 20 s. It
    raises ConfigurationError (a field and its rule) and PayloadTooLarge before anything is sent; CommandTimeout when
    it could not be sent within ``timeout`` seconds (None: no limit); GatewayClosed when the gateway does not run;
    CruxError when the connection broke while writing: such a command is not repeated.

    Ids are ints or strings of digits.
    """

    _shards: dict[int, Shard]

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        #: The presence last set by command, for identifies to come.
        self._presences: dict[int, Presence] = {}
        self._all_members: dict[str, float] = {}
        self._all_members_lock = Lock()

    def update_presence(
        self,
        presence: Presence | Mapping[str, Any] | None = None,
        *,
        shard_id: int | None = None,
        timeout: float | None = 60.0,
        **fields: Any,
    ) -> None:
        """Set status and activities (op 3), on one shard or on all.

        Give a Presence, a mapping, or its fields: ``update_presence(status="idle", activities=[Activity("chess")])``.
        While one waits for the limit of 5 in 20 s, a later one takes its place. It survives a new identify.
        Any thread. Raises ConfigurationError; CommandTimeout when not sent within ``timeout`` seconds; GatewayClosed.
        """
        if presence is not None and fields:
            raise ConfigurationError("give a presence or its fields, not both")
        value = Presence.of(fields if presence is None else presence)
        data = encode(commands.presence_update(value))
        check_timeout(timeout)
        shards = list(self._running_shards().values()) if shard_id is None else [self._shard(shard_id)]
        deadline = None if timeout is None else time.monotonic() + timeout
        for shard in shards:
            self._presences[shard.id] = value
        for shard in shards:
            shard.outbox.send_presence(data, None if deadline is None else max(deadline - time.monotonic(), 0.0))

    def update_voice_state(
        self,
        guild_id: Id,
        channel_id: Id | None,
        self_mute: bool = False,
        self_deaf: bool = False,
        *,
        wait: bool = False,
        timeout: float | None = 20.0,
    ) -> VoiceConnection | None:
        """Join, move to or leave (``channel_id=None``) a voice channel (op 4).

        With ``wait=True`` it returns once Discord has answered, with what a voice library needs; that needs the intent
        GUILD_VOICE_STATES. Any thread. Raises ConfigurationError, GatewayClosed; CommandTimeout when it was not sent,
        or not answered, within ``timeout`` seconds: a full channel gets no answer at all.
        """
        payload = commands.voice_state_update(guild_id, channel_id, self_mute, self_deaf)
        check_timeout(timeout)
        if wait and Intents.GUILD_VOICE_STATES not in self._options.intents:
            raise ConfigurationError("wait=True needs the intent GUILD_VOICE_STATES")
        shard = self._shard_of(guild_id)
        if not wait:
            shard.outbox.send(encode(payload), timeout)
            return None
        deadline = None if timeout is None else time.monotonic() + timeout
        mailbox = self._mailbox(VOICE_EVENTS, shard.id)
        try:
            shard.outbox.send(encode(payload), timeout)
            wanted = payload["d"]
            return collect_voice(
                mailbox, wanted["guild_id"], wanted["channel_id"], shard.session.user_id, deadline, timeout
            )
        finally:
            self._close_mailbox(mailbox)

    def request_guild_members(
        self,
        guild_id: Id,
        query: str = "",
        limit: int = 0,
        *,
        user_ids: Id | Iterable[Id] | None = None,
        presences: bool = False,
        timeout: float | None = 60.0,
    ) -> MemberRequest:
        """Ask for members (op 8): all, those whose name starts with ``query`` (``limit`` 1 to 100), or ``user_ids``.

        The request is sent at the call; iterate over what is returned for the members. All members of one guild may be
        asked for once in 30 s: a second request waits. ``timeout`` is for the whole answer, in seconds.

        Any thread. Raises ConfigurationError (all members need the intent GUILD_MEMBERS, ``presences`` needs
        GUILD_PRESENCES), GatewayClosed; iterating raises CommandTimeout.
        """
        payloads = commands.request_guild_members(
            guild_id, query=query, limit=limit, user_ids=user_ids, presences=presences, intents=self._options.intents
        )
        for payload in payloads:
            encode(payload)
        check_timeout(timeout)
        shard = self._shard_of(guild_id)

        def send(part: Part, remaining: float | None) -> bool:
            if part.all_members and (delay := self._all_members_delay(part.payload["d"]["guild_id"])):
                part.send_at = time.monotonic() + delay
                return False
            shard.outbox.send(encode(part.sending()), remaining)
            return True

        mailbox = self._mailbox(MEMBER_EVENTS, shard.id)
        return MemberRequest(payloads, mailbox, send, timeout, self._close_mailbox)

    def _all_members_delay(self, guild_id: str) -> float:
        """Seconds until all members of a guild may be asked for; 0: now, and it is noted."""
        with self._all_members_lock:
            now = time.monotonic()
            times = {one: when for one, when in self._all_members.items() if now - when < ALL_MEMBERS_PERIOD + GUARD}
            self._all_members = times
            if guild_id in times:
                return times[guild_id] + ALL_MEMBERS_PERIOD + GUARD - now
            times[guild_id] = now
            return 0.0

    def request_soundboard_sounds(self, guild_ids: Id | Iterable[Id], *, timeout: float | None = 60.0) -> None:
        """Ask for the soundboard sounds of guilds (op 31): a SOUNDBOARD_SOUNDS event comes for each.

        Any thread. Raises ConfigurationError; CommandTimeout when not sent within ``timeout`` seconds; GatewayClosed.
        """
        check_timeout(timeout)
        by_shard: dict[int, list[str]] = {}
        for part in commands.request_soundboard_sounds(guild_ids):
            for guild_id in part:
                by_shard.setdefault(self._shard_of(guild_id).id, []).append(guild_id)
        for shard_id, ids in by_shard.items():
            for part in commands.request_soundboard_sounds(ids):
                self._shard(shard_id).outbox.send(encode(commands.soundboard_payload(part)), timeout)

    def request_channel_info(
        self, guild_id: Id, fields: Iterable[str] = commands.CHANNEL_FIELDS, *, timeout: float | None = 60.0
    ) -> None:
        """Ask for ``status`` and ``voice_start_time`` of a guild's channels (op 43): a CHANNEL_INFO event comes.

        Any thread. Raises ConfigurationError; CommandTimeout when not sent within ``timeout`` seconds; GatewayClosed.
        """
        data = encode(commands.request_channel_info(guild_id, fields))
        self._shard_of(guild_id).outbox.send(data, check_timeout(timeout))

    def send(self, payload: Mapping[str, Any], shard_id: int = 0, *, timeout: float | None = 60.0) -> None:
        """Send a payload as it is: a mapping with ``op`` and ``d``. Heartbeat, identify and resume are refused.

        Any thread. Raises ConfigurationError; PayloadTooLarge beyond 4096 bytes; CommandTimeout when not sent within
        ``timeout`` seconds; GatewayClosed.
        """
        data = encode(commands.raw(payload))
        self._shard(shard_id).outbox.send(data, check_timeout(timeout))

    # ---------------------------------------------------------------- shards and mailboxes

    def shard_for(self, guild_id: Id) -> int:
        """The id of the shard that a guild's events come on: ``(guild_id >> 22) % shard_count``.

        Any thread. Raises ConfigurationError for what is no id, GatewayClosed while the shard count is not known.
        """
        count = self.shard_count
        if count is None:
            raise GatewayClosed("shard_count is not known before start(): give it to Gateway(...)")
        return (int(snowflake(guild_id, "guild_id")) >> 22) % count

    @property
    def shard_count(self) -> int | None:
        """How many shards the bot has in all, here and elsewhere; None until known."""
        return self._options.shard_count

    def _running_shards(self) -> dict[int, Shard]:
        self._check_process()
        if self._failure is not None:
            raise self._failure
        if self._phase != "running":
            raise GatewayClosed(
                "the gateway is not running" if self._phase == "new" else f"the gateway is {self._phase}"
            )
        return self._shards

    def _shard(self, shard_id: int) -> Shard:
        shard = self._running_shards().get(shard_id)
        if shard is None:
            raise ConfigurationError(f"shard {shard_id!r} does not run here")
        return shard

    def _shard_of(self, guild_id: Id) -> Shard:
        snowflake(guild_id, "guild_id")
        self._running_shards()
        return self._shard(self.shard_for(guild_id))

    def _mailbox(self, names: frozenset[str], shard_id: int) -> Mailbox:
        mailbox = Mailbox(self._hub, names, shard_id)
        self._waiters.add(mailbox)
        return mailbox

    def _close_mailbox(self, mailbox: Mailbox) -> None:
        self._waiters.discard(mailbox)
        mailbox.close()
