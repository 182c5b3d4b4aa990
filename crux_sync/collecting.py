"""Answers that come as events: guild members in chunks, the two halves of a voice connection."""

import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from .commands import Payload
from .dispatch import Hub
from .errors import CommandTimeout
from .events import Event
from .members import MemberCollection, Part
from .subscription import overcommit


class Mailbox:
    """An observer that keeps what passes its filter, for one thread to read. Ends when closed."""

    def __init__(self, hub: Hub, names: frozenset[str], shard_id: int) -> None:
        self.names: frozenset[str] | None = names
        self._hub = hub
        self._shard_id = shard_id
        self._events: SimpleQueue[Event | BaseException] = SimpleQueue()
        hub.observe(self)

    def observe(self, event: Event) -> None:
        if event.shard_id == self._shard_id:
            self._events.put(event)

    def fail(self, error: BaseException) -> None:
        self._events.put(error)

    def get(self, deadline: float | None) -> Event | None:
        """The next event; None at ``deadline`` (monotonic seconds). Raises what ``fail`` was given."""
        timeout = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        try:
            event = self._events.get(timeout=timeout)
        except Empty:
            return None
        if isinstance(event, BaseException):
            raise event
        return event

    def close(self) -> None:
        self._hub.unobserve(self)


MEMBER_EVENTS = frozenset({"GUILD_MEMBERS_CHUNK", "RATE_LIMITED", "SHARD_READY", "SHARD_RESUMED"})


class MemberRequest:
    """The members asked for: iterate over them, or over ``chunks()``, or take ``result()``. One thread at a time.

    Raises CommandTimeout when not complete in time, GatewayClosed when the gateway closes. After a lost
    connection, and after RATE_LIMITED, what is missing is asked for again. ``not_found`` and ``presences`` fill up
    as chunks arrive.
    """

    def __init__(
        self,
        payloads: list[Payload],
        mailbox: Mailbox,
        send: Callable[[Part, float | None], bool],
        timeout: float | None,
        done: Callable[[Mailbox], None],
    ) -> None:
        self._collection = MemberCollection(payloads)
        self._mailbox = mailbox
        self._send = send
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._done = done
        self._members: list[dict[str, Any]] = []
        self._send_due()

    @property
    def not_found(self) -> list[Any]:
        """Ids that are no members; Discord may give some as numbers."""
        return self._collection.not_found

    @property
    def presences(self) -> list[dict[str, Any]]:
        """Presences of the members so far, if they were asked for."""
        return self._collection.presences

    def chunks(self) -> Iterator[list[dict[str, Any]]]:
        """Members as they arrive, up to 1,000 at a time."""
        collection = self._collection
        with overcommit() as own_queue:
            while not collection.complete:
                self._send_due()
                event = self._mailbox.get(self._wake_up())
                own_queue.check()
                if event is not None:
                    new = collection.feed(event.type, event.data, time.monotonic())
                    if new:
                        self._members += new
                        yield new
                elif self._deadline is not None and time.monotonic() >= self._deadline:
                    self.close()
                    raise CommandTimeout(f"not every member came within {self._timeout:g} s")
        self.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for chunk in self.chunks():
            yield from chunk

    def result(self) -> list[dict[str, Any]]:
        """Every member, once all are here; those iterated over already included."""
        for _ in self.chunks():
            pass
        return self._members

    def close(self) -> None:
        """Stop collecting."""
        self._done(self._mailbox)

    def __del__(self) -> None:
        self._done(self._mailbox)

    def _send_due(self) -> None:
        now = time.monotonic()
        for part in self._collection.due(now):
            remaining = None if self._deadline is None else max(self._deadline - now, 0.0)
            self._send(part, remaining)

    def _wake_up(self) -> float | None:
        times = [one for one in (self._deadline, self._collection.next_due()) if one is not None]
        return min(times, default=None)


class VoiceConnection(NamedTuple):
    """What a voice library needs to connect (protocol, section 11.6). ``channel_id`` None: the bot has left."""

    guild_id: str
    channel_id: str | None
    user_id: str
    session_id: str
    token: str | None
    #: ``host:port`` without a scheme; None: the server is gone, another VOICE_SERVER_UPDATE will follow.
    endpoint: str | None


VOICE_EVENTS = frozenset({"VOICE_STATE_UPDATE", "VOICE_SERVER_UPDATE"})


def collect_voice(
    mailbox: Mailbox, guild_id: str, channel_id: str | None, user_id: str | None, deadline: float | None, timeout: Any
) -> VoiceConnection:
    """Wait for both voice events, in either order; for the one when leaving. Raises CommandTimeout."""
    state: dict[str, Any] | None = None
    server: dict[str, Any] | None = None
    with overcommit():
        while state is None or (server is None and channel_id is not None):
            event = mailbox.get(deadline)
            if event is None:
                raise CommandTimeout(
                    f"no answer to the voice update within {timeout:g} s: the channel may be full or not allowed"
                )
            data = event.data
            if str(data.get("guild_id")) != guild_id:
                continue
            if event.type == "VOICE_SERVER_UPDATE":
                server = data
            elif user_id is None or data.get("user_id") == user_id:
                state = data
    server = server or {}
    return VoiceConnection(
        guild_id,
        state.get("channel_id"),
        state["user_id"],
        state["session_id"],
        server.get("token"),
        server.get("endpoint"),
    )
