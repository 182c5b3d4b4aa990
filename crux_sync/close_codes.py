"""What each close code means for the session: the policy as a table (protocol, sections 6.12 and 7)."""

from enum import Enum
from typing import NamedTuple

from .errors import (
    AuthenticationFailed,
    DisallowedIntents,
    FatalCloseError,
    InvalidAPIVersion,
    InvalidIntents,
    InvalidShard,
    ShardingRequired,
)


class Outcome(Enum):
    """What to do after a connection ended."""

    RESUME = "resume"
    #: One Resume; if the session does not come back, a new one.
    RESUME_ONCE = "resume once"
    IDENTIFY = "identify"
    FATAL = "fatal"


class ClosePolicy(NamedTuple):
    """One row of the table."""

    name: str
    outcome: Outcome
    error: type[FatalCloseError] | None = None
    #: Least back-off before the next connection, seconds.
    pause: float = 0.0


CLOSE_POLICY: dict[int, ClosePolicy] = {
    # Is the session gone when the server says 1000? Unknown (18.10): one Resume tells.
    1000: ClosePolicy("normal closure", Outcome.RESUME_ONCE),
    1001: ClosePolicy("going away", Outcome.RESUME),
    1005: ClosePolicy("no code", Outcome.RESUME),
    1006: ClosePolicy("connection lost", Outcome.RESUME),
    4000: ClosePolicy("unknown error", Outcome.RESUME),
    # Staff: the session does not survive a malformed payload, a Resume would earn op 9.
    4001: ClosePolicy("unknown opcode", Outcome.IDENTIFY),
    4002: ClosePolicy("decode error", Outcome.RESUME),
    # Also sent when the token was reset: then the Identify meets 4004, which is final.
    4003: ClosePolicy("not authenticated", Outcome.IDENTIFY),
    4004: ClosePolicy("authentication failed", Outcome.FATAL, AuthenticationFailed),
    4005: ClosePolicy("already authenticated", Outcome.IDENTIFY),
    4006: ClosePolicy("session no longer valid", Outcome.IDENTIFY),
    4007: ClosePolicy("invalid sequence", Outcome.IDENTIFY),
    # The server counts 120 sends in 60 s: coming straight back would look like dodging the limit.
    4008: ClosePolicy("rate limited", Outcome.RESUME, pause=5.0),
    4009: ClosePolicy("session timed out", Outcome.IDENTIFY),
    4010: ClosePolicy("invalid shard", Outcome.FATAL, InvalidShard),
    4011: ClosePolicy("sharding required", Outcome.FATAL, ShardingRequired),
    4012: ClosePolicy("invalid API version", Outcome.FATAL, InvalidAPIVersion),
    4013: ClosePolicy("invalid intents", Outcome.FATAL, InvalidIntents),
    4014: ClosePolicy("disallowed intents", Outcome.FATAL, DisallowedIntents),
}

#: Any other code. The fatal codes are a deny-list: what Discord adds later reconnects.
UNKNOWN_CODE = ClosePolicy("unknown code", Outcome.RESUME_ONCE)

NO_CODE = 1005
CONNECTION_LOST = 1006


def close_policy(code: int) -> ClosePolicy:
    """The row for ``code``."""
    return CLOSE_POLICY.get(code, UNKNOWN_CODE)
