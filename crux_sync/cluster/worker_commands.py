"""Commands from workers: checked here, carried over Redis to the process that has the shard, answered from there."""

import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .. import commands, errors
from ..callbacks import Registry
from ..collecting import VoiceConnection
from ..commands import check_timeout, encode, snowflake
from ..errors import CommandTimeout, ConfigurationError, CruxError, GatewayClosed
from ..events import decode_json, encode_json
from ..intents import Intents
from ..opcodes import Opcode
from ..options import whole_number
from ..presence import Presence
from ..registering import Registering
from .client import PASSING, Lent
from .config import agreed
from .keys import Keys

Id = int | str

#: Answers that nobody reads, and commands that no gateway takes, are gone after so long, seconds.
KEPT = 120

#: How long one read waits in Redis before the caller's own deadline is looked at, seconds.
BLOCK = 0.25

#: What an answer may raise, by name; anything else is a CruxError.
RAISED = {name: getattr(errors, name) for name in ("ConfigurationError", "PayloadTooLarge", "CommandTimeout")}


class Answers:
    """The stream of the answers to one command. One thread."""

    def __init__(self, lent: Lent, keys: Keys, timeout: float | None, stopping: threading.Event) -> None:
        self.key = keys.reply(uuid.uuid4().hex)
        self._lent, self._stopping = lent, stopping
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._last: bytes = b"0-0"

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline; None: there is none."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Kind and data of each answer. Raises what an answer tells, CommandTimeout, GatewayClosed."""
        while True:
            if self._stopping.is_set():
                raise GatewayClosed("the worker is closed")
            remaining = self.remaining
            if remaining == 0:
                raise CommandTimeout(f"no gateway of the cluster answered within {self._timeout:g} s")
            block = BLOCK if remaining is None else min(BLOCK, remaining)
            try:
                with self._lent.borrow() as client:
                    found = client.xread({self.key: self._last}, block=max(round(block * 1000), 1))
            except PASSING:  # away: the answer may still be there when it is back
                self._stopping.wait(block)
                continue
            for _, entries in found:
                for number, fields in entries:
                    self._last = number
                    yield self._read(fields)

    def _read(self, fields: Mapping[bytes, bytes]) -> tuple[str, Any]:
        if b"error" in fields:
            raise RAISED.get(fields.get(b"k", b"").decode(), CruxError)(fields[b"error"].decode())
        return fields[b"t"].decode(), decode_json(fields.get(b"d") or b"null")

    def close(self) -> None:
        """Nothing more is read."""
        try:
            with self._lent.borrow() as client:
                client.delete(self.key)
        except (*PASSING, GatewayClosed):
            return  # it expires


class RemoteMembers:
    """The members asked for: iterate over them, or over ``chunks()``, or take ``result()``. One thread at a time.

    Raises CommandTimeout when not complete in time, GatewayClosed when the worker is closed, and what the gateway
    raised. ``not_found`` and ``presences`` are there once everything has come.
    """

    def __init__(self, answers: Answers) -> None:
        self.not_found: list[Any] = []
        self.presences: list[dict[str, Any]] = []
        self._answers = answers
        self._members: list[dict[str, Any]] = []
        self._complete = False

    def chunks(self) -> Iterator[list[dict[str, Any]]]:
        """Members as they arrive."""
        if self._complete:
            return
        for kind, data in self._answers:
            if kind == "end":
                self._complete = True
                self.not_found, self.presences = data["not_found"], data["presences"]
                self._answers.close()
                return
            self._members += data
            yield data

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for chunk in self.chunks():
            yield from chunk

    def result(self) -> list[dict[str, Any]]:
        """Every member, once all are here; those iterated over already included."""
        for _ in self.chunks():
            pass
        return self._members


class WorkerCommands(Registering):
    """The commands of a worker: those of a Gateway, sent by the process that has the shard.

    Any thread, callbacks included; they block until that process has sent them, or has the answer. A command is sent
    once or not at all: nothing is repeated when a process dies with it, then CommandTimeout is raised.
    """

    def __init__(self, registry: Registry, client: Any, keys: Keys, stopping: threading.Event) -> None:
        super().__init__(registry)
        self._client, self._keys = client, keys
        #: For the threads of users, which may be in the middle of a command when the worker is closed.
        self._lent = Lent(client)
        self._stopping = stopping

    def update_presence(
        self,
        presence: Presence | Mapping[str, Any] | None = None,
        *,
        shard_id: int | None = None,
        timeout: float | None = 60.0,
        **fields: Any,
    ) -> None:
        """Set status and activities (op 3), on one shard or on all, as ``Gateway.update_presence`` does.

        Any thread. Raises ConfigurationError; CommandTimeout when not sent within ``timeout`` seconds; GatewayClosed.
        """
        if presence is not None and fields:
            raise ConfigurationError("give a presence or its fields, not both")
        payload = commands.presence_update(Presence.of(fields if presence is None else presence))
        encode(payload)
        answers = self._answers(timeout)
        shards = list(range(self._shard_count())) if shard_id is None else [self._checked(shard_id)]
        for shard in shards:
            self._put(shard, payload["op"], payload["d"], answers)
        self._await(answers, len(shards))

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
        """Join, move to or leave (``channel_id=None``) a voice channel (op 4), as ``Gateway.update_voice_state`` does.

        Any thread. Raises ConfigurationError, GatewayClosed; CommandTimeout when it was not sent, or with ``wait``
        not answered, within ``timeout`` seconds.
        """
        payload = commands.voice_state_update(guild_id, channel_id, self_mute, self_deaf)
        answers = self._answers(timeout)
        self._put(self.shard_for(guild_id), payload["op"], payload["d"], answers, wait=wait)
        data = self._await(answers, 1)
        return VoiceConnection(**data) if wait else None

    def request_guild_members(
        self,
        guild_id: Id,
        query: str = "",
        limit: int = 0,
        *,
        user_ids: Id | Iterable[Id] | None = None,
        presences: bool = False,
        timeout: float | None = 60.0,
    ) -> RemoteMembers:
        """Ask for members (op 8), as ``Gateway.request_guild_members`` does; iterate over what is returned.

        Any thread. Raises ConfigurationError, GatewayClosed; iterating raises CommandTimeout after ``timeout`` seconds
        in all, and ConfigurationError where the gateways lack the intent.
        """
        # Which intents there are is known to the gateways alone.
        payloads = commands.request_guild_members(
            guild_id, query=query, limit=limit, user_ids=user_ids, presences=presences, intents=Intents.all()
        )
        for payload in payloads:
            encode(payload)
        data = {name: value for name, value in payloads[0]["d"].items() if name != "nonce"}
        if user_ids is not None:
            data["user_ids"] = [one for payload in payloads for one in payload["d"]["user_ids"]]
        answers = self._answers(timeout)
        self._put(self.shard_for(guild_id), int(Opcode.REQUEST_GUILD_MEMBERS), data, answers)
        return RemoteMembers(answers)

    def send(self, payload: Mapping[str, Any], shard_id: int = 0, *, timeout: float | None = 60.0) -> None:
        """Send a payload as it is: a mapping with ``op`` and ``d``. Heartbeat, identify and resume are refused.

        Any thread. Raises ConfigurationError; PayloadTooLarge beyond 4096 bytes; CommandTimeout when not sent within
        ``timeout`` seconds; GatewayClosed.
        """
        checked = commands.raw(payload)
        encode(checked)
        answers = self._answers(timeout)
        self._put(self._checked(shard_id), checked["op"], checked.get("d"), answers, raw=True)
        self._await(answers, 1)

    def shard_for(self, guild_id: Id) -> int:
        """The id of the shard that a guild's events come on: ``(guild_id >> 22) % shard_count``.

        Any thread. Raises ConfigurationError for what is no id, GatewayClosed while no gateway has said the count.
        """
        return (int(snowflake(guild_id, "guild_id")) >> 22) % self._shard_count()

    # ---------------------------------------------------------------- there and back

    def _answers(self, timeout: Any) -> Answers:
        if self._stopping.is_set():
            raise GatewayClosed("the worker is closed")
        return Answers(self._lent, self._keys, check_timeout(timeout), self._stopping)

    def _shard_count(self) -> int:
        try:
            with self._lent.borrow() as client:
                count = agreed(client, self._keys, "shards")
        except PASSING as error:
            raise CruxError(f"Redis is away, nothing was sent: {error}") from error
        if count is None:
            raise GatewayClosed("no gateway of this cluster has been started yet: its shard count is not known")
        return count

    def _checked(self, shard_id: Any) -> int:
        return whole_number("shard_id", 0, self._shard_count() - 1)(shard_id)

    def _put(
        self, shard_id: int, op: int, data: Any, answers: Answers, *, wait: bool = False, raw: bool = False
    ) -> None:
        """Into the shard's stream: op, data, where to answer, for how long, and whether Discord's answer is wanted."""
        remaining = answers.remaining
        fields = {
            "op": op,
            "d": encode_json(data),
            "r": answers.key,
            "x": -1 if remaining is None else round(remaining * 1000),
            "w": int(wait),
            "raw": int(raw),
        }
        try:
            with self._lent.borrow() as client, client.pipeline() as together:
                together.xadd(self._keys.commands(shard_id), fields)
                together.expire(self._keys.commands(shard_id), KEPT)
                together.execute()
        except PASSING as error:
            raise CruxError(f"Redis is away, the command may not have been sent: {error}") from error

    def _await(self, answers: Answers, count: int) -> Any:
        """The last of ``count`` answers."""
        try:
            found = iter(answers)
            data = None
            for _ in range(count):
                _, data = next(found)
            return data
        finally:
            answers.close()
