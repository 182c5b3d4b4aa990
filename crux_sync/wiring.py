"""What the shards of a gateway share, and what they ask of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .dispatch import Hub
from .errors import FatalCloseError
from .events import Event
from .heartbeat import Heartbeater
from .intents import Intents
from .limits import IdentifyLimiter
from .watch import Watch


class Host(Protocol):
    """What a shard asks of its gateway. Called on the shard's own thread, with no lock held."""

    def gateway_url(self, *, refresh: bool) -> str: ...

    def may_resume_at(self, url: str) -> bool: ...

    def presence_for(self, shard_id: int) -> dict[str, Any] | None: ...

    def shard_failed(self, shard_id: int, error: FatalCloseError) -> None: ...

    def session_changed(self) -> None: ...

    def report(self, error: BaseException, event: Event | None, source: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Wiring:
    """What all shards of a gateway share."""

    host: Host
    hub: Hub
    heartbeater: Heartbeater
    watch: Watch
    limiter: IdentifyLimiter
    #: A function, so that no repr or traceback of this object shows the token.
    token: Callable[[], str]
    intents: Intents
    large_threshold: int
    compress: str | None
    ssl_context: Any
    proxy: str | None
    #: Asked before anything is written; False cuts the connection. None: always permitted.
    permitted: Callable[[], bool] | None = None
