"""Every error the library raises.

::

    CruxError
    ├── ConfigurationError (also a ValueError)
    ├── DiscoveryError
    ├── SessionStartLimitReached
    ├── GatewayClosed
    ├── PayloadTooLarge
    ├── CommandTimeout (also a TimeoutError)
    ├── ProtocolError
    └── FatalCloseError
        ├── AuthenticationFailed   4004, or HTTP 401
        ├── InvalidShard           4010
        ├── ShardingRequired       4011
        ├── InvalidAPIVersion      4012
        ├── InvalidIntents         4013
        └── DisallowedIntents      4014

``Subscription.get``, ``wait_for`` and ``join`` raise the built-in :class:`TimeoutError`.
No message of these errors ever contains the token.
"""


class CruxError(Exception):
    """Base of every error of this library."""


class CruxWarning(UserWarning):
    """Something that works, but hardly as meant: an unknown event name, an intent that is missing."""


class ConfigurationError(CruxError, ValueError):
    """A value given by the caller breaks a rule; the message names both. Nothing was sent."""


class DiscoveryError(CruxError):
    """``GET /gateway/bot`` could not be answered; the message has the address and the cause."""


class SessionStartLimitReached(CruxError):
    """Discord grants fewer session starts (identifies) than are needed now (protocol, section 8.3).

    ``remaining`` is how many are left, ``reset_after`` the seconds until the allowance is renewed.
    """

    def __init__(self, message: str, *, remaining: int, reset_after: float) -> None:
        super().__init__(message)
        self.remaining = remaining
        self.reset_after = reset_after


class GatewayClosed(CruxError):
    """The gateway is closed, or its shard is stopped: nothing can be sent or awaited any more."""


class PayloadTooLarge(CruxError, ValueError):
    """A payload of more than 4096 bytes: Discord would end the connection (protocol, section 3.2)."""


class CommandTimeout(CruxError, TimeoutError):
    """A command was not sent, or not answered, within its time-out."""


class ProtocolError(CruxError):
    """The server sent something that the gateway protocol does not allow."""


class FatalCloseError(CruxError):
    """Discord closed a connection for good: trying again would fail in the same way (section 7).

    ``code`` is the close code (None when HTTP said so), ``reason`` the server's text, ``shard_id`` the
    shard (None when no shard was involved).
    """

    #: What the user can do about it; a part of the message.
    hint = ""

    def __init__(
        self, code: int | None = None, reason: str = "", shard_id: int | None = None, *, detail: str = ""
    ) -> None:
        self.code = code
        self.reason = reason
        self.shard_id = shard_id
        where = f"shard {shard_id}: " if shard_id is not None else ""
        what = f"closed with {code}" if code is not None else "refused by HTTP"
        said = f" ({reason})" if reason else ""
        advice = detail or self.hint
        super().__init__(f"{where}{what}{said}{': ' + advice if advice else ''}")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_fatal, (type(self), self.args, self.code, self.reason, self.shard_id))


def _rebuild_fatal(
    kind: type[FatalCloseError], args: tuple[object, ...], code: int | None, reason: str, shard_id: int | None
) -> FatalCloseError:
    """Unpickle: the message is kept as it was, not composed again."""
    error = kind(code, reason, shard_id)
    error.args = args
    return error


class AuthenticationFailed(FatalCloseError):
    """The token is wrong or was reset: close code 4004, or HTTP 401 (then ``code`` is None)."""

    hint = "the token is wrong or was reset; copy it anew from the Bot page of the developer portal"


class InvalidShard(FatalCloseError):
    """Close code 4010: Discord does not accept this shard id and shard count."""

    hint = "this shard id and count are not accepted; large bots must use a multiple of their assigned count"


class ShardingRequired(FatalCloseError):
    """Close code 4011: more than 2,500 guilds fall on this shard."""

    hint = "too many guilds for this shard; raise shard_count, or leave it out to use Discord's advice"


class InvalidAPIVersion(FatalCloseError):
    """Close code 4012: the gateway no longer speaks the API version of this library."""

    hint = "the gateway does not accept this API version; a newer release of crux_sync is needed"


class InvalidIntents(FatalCloseError):
    """Close code 4013: the intents value has bits that mean nothing."""

    hint = "intents has bits that Discord does not know"


class DisallowedIntents(FatalCloseError):
    """Close code 4014: a privileged intent was asked for that is not granted to this bot.

    The message names the privileged intents that were asked for.
    """

    hint = "a privileged intent was asked for that is not enabled on the Bot page of the developer portal"
