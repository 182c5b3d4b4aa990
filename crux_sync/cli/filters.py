"""Which events ``listen`` shows: those of some guilds, those about some users."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ..events import UNREADABLE, Event


class Id(msgspec.Struct, gc=False):
    """An object of which only the id matters."""

    id: str | int | UnsetType | None = UNSET


class HasUser(msgspec.Struct, gc=False):
    """A guild member."""

    user: Id | UnsetType | None = UNSET


class Who(msgspec.Struct, gc=False):
    """Where events name the user they are about; all else is skipped, not built."""

    id: str | int | UnsetType | None = UNSET
    user_id: str | int | UnsetType | None = UNSET
    user: Id | UnsetType | None = UNSET
    author: Id | UnsetType | None = UNSET
    member: HasUser | UnsetType | None = UNSET


WHO = msgspec.json.Decoder(Who)


class Filter:
    """Passes events of any of ``guilds`` and about any of ``users``; an empty set asks for nothing."""

    def __init__(self, guilds: frozenset[int], users: frozenset[int]) -> None:
        self.guilds = guilds
        self.users = users

    def passes(self, event: Event) -> bool:
        """Whether the event is wanted. One that names no guild, or no user, is not where one is asked for."""
        if self.guilds and event.guild_id not in self.guilds:
            return False
        return not self.users or not self.users.isdisjoint(users_of(event))


def users_of(event: Event) -> set[int]:
    """The user who wrote, typed, reacted, joined, spoke, changed: not who is merely mentioned."""
    try:
        who = WHO.decode(event.payload)
    except UNREADABLE:
        return set()
    ids: list[Any] = [who.user_id, id_of(who.user), id_of(who.author)]
    if isinstance(who.member, HasUser):
        ids.append(id_of(who.member.user))
    if event.type == "USER_UPDATE":
        ids.append(who.id)
    return {int(one) for one in ids if isinstance(one, int) or (isinstance(one, str) and one.isdecimal())}


def id_of(value: Any) -> Any:
    return value.id if isinstance(value, Id) else None
