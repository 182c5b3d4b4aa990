"""What a session is doing, and what it asks its shard to do."""

from enum import StrEnum
from typing import Any, NamedTuple

from .errors import FatalCloseError


class State(StrEnum):
    """What a shard is doing."""

    CONNECTING = "connecting"
    IDENTIFYING = "identifying"
    RESUMING = "resuming"
    READY = "ready"
    WAITING = "waiting"
    STOPPED = "stopped"
    FAILED = "failed"


class SendHeartbeat(NamedTuple):
    """Send op 1 with this sequence."""

    sequence: int | None


class SendIdentify(NamedTuple):
    """Send op 2; the driver adds the token and the presence."""


class SendResume(NamedTuple):
    """Send op 6; the driver adds the token."""

    session_id: str
    sequence: int


class Disconnect(NamedTuple):
    """Leave this connection. ``drop``: the peer is not answering, do not wait for its close frame."""

    code: int
    why: str
    drop: bool = False


class Emit(NamedTuple):
    """Tell consumers about the life of the shard."""

    type: str
    data: dict[str, Any]


class Redial(NamedTuple):
    """Connect again after ``delay`` seconds."""

    delay: float


class Fail(NamedTuple):
    """Stop: trying again would fail in the same way."""

    error: FatalCloseError


Action = SendHeartbeat | SendIdentify | SendResume | Disconnect | Emit | Redial | Fail


class Dial(NamedTuple):
    """Where the next connection goes. ``url`` None: the gateway's own url."""

    url: str | None
    resume: bool
