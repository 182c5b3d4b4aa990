"""The options of a gateway, checked when given: nothing is sent before all of them make sense."""

import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import urlsplit

from .connection import proxy_options
from .discovery import is_loopback
from .dispatchers import BroadcastDispatcher, create_dispatcher
from .errors import ConfigurationError
from .inflate import COMPRESSIONS, import_zstd
from .intents import ALL, Intents
from .presence import Presence
from .sessions import create_store
from .subscription import OVERFLOWS

DEFAULT_API_URL = "https://discord.com/api/v10"
TOKEN_VARIABLE = "DISCORD_TOKEN"


@dataclass(frozen=True, slots=True)
class Options:
    """What ``Gateway(...)`` was given; ``Gateway`` documents each."""

    token: str | None = field(default=None, repr=False)
    intents: Intents = field(default_factory=Intents.default)
    url: str | Callable[[], str] | None = None
    shard_count: int | None = None
    shards: tuple[int, ...] | None = None
    dispatcher: Any = BroadcastDispatcher
    presence: Any = None
    compress: str | None = "zlib-stream"
    large_threshold: int = 50
    workers: int = 1
    queue_size: int = 10_000
    overflow: str = "block"
    session_store: Any = None
    identify_limiter: Any = None
    api_url: str = DEFAULT_API_URL
    ssl_context: ssl.SSLContext | None = None
    proxy: str | None = field(default=None, repr=False)
    wait_for_session_starts: bool = False
    permitted: Callable[[], bool] | None = None

    def override(self, values: dict[str, Any]) -> "Options":
        """These options with ``values`` instead, checked again. Raises ConfigurationError."""
        known = {one.name for one in fields(self)}
        for name in values:
            if name not in known:
                raise ConfigurationError(f"{name!r} is no option of Gateway; there are {', '.join(sorted(known))}")
        return replace(self, **{name: CHECKS.get(name, unchecked)(value) for name, value in values.items()}).checked()

    def checked(self) -> "Options":
        """The rules that span several options."""
        if self.shard_count is not None and self.shards is not None:
            check_range(self.shards, self.shard_count)
        return self

    def need_token(self) -> str:
        """The token given, or the environment's. Raises ConfigurationError."""
        token = self.token if self.token is not None else os.environ.get(TOKEN_VARIABLE)
        if not token:
            raise ConfigurationError(f"no token: give Gateway(token) or set the environment variable {TOKEN_VARIABLE}")
        check_token(token)
        return token


def unchecked(value: Any) -> Any:
    return value


def check_token(token: Any) -> Any:
    if token is None:
        return None
    if not isinstance(token, str) or not token.strip():
        raise ConfigurationError("token must be a non-empty string")  # never shown, whatever it is
    if token != token.strip() or token.startswith("Bot ") or any(character.isspace() for character in token):
        raise ConfigurationError("token must be the bare token: no 'Bot ' before it, no white space in it")
    if not token.isascii() or not token.isprintable():
        raise ConfigurationError("token has characters that no token has")
    return token


def check_intents(value: Any) -> Intents:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError(f"intents must be an Intents value or an int, not {value!r}")
    if value < 0 or value & ~ALL:
        raise ConfigurationError(f"intents={value} has bits that are no documented intent: {hex(value & ~ALL)}")
    return Intents(value)


def check_url(value: Any) -> Any:
    if value is None or callable(value):
        return value
    return check_gateway_url(value, "url")


def check_gateway_url(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a wss:// url or a callable that returns one, not {value!r}")
    parts = split_url(value, name)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ConfigurationError(f"{name}={value!r} must start with wss:// (or ws://) and name a host")
    if parts.query or parts.fragment:
        raise ConfigurationError(f"{name}={value!r} must have no query: version, encoding and compression are added")
    if parts.username or parts.password:
        raise ConfigurationError(f"{name} must have no user name or password")
    return value


def check_api_url(value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"api_url must be an https:// url, not {value!r}")
    parts = split_url(value, "api_url")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ConfigurationError(f"api_url={value!r} must be an https:// url without a query")
    if parts.scheme == "http" and not is_loopback(value):
        raise ConfigurationError(f"api_url={value!r}: plain http would show the token; only this machine is allowed")
    return value.rstrip("/")


def split_url(value: str, name: str) -> Any:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - raises for a port that is no number
    except ValueError as error:
        raise ConfigurationError(f"{name}={value!r} is no url: {error}") from error
    return parts


def whole_number(name: str, least: int, most: int | None = None) -> Callable[[Any], int]:
    rule = f"a whole number of {least} or more" if most is None else f"a whole number from {least} to {most}"

    def check(value: Any) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or value < least
            or (most is not None and value > most)
        ):
            raise ConfigurationError(f"{name}={value!r} must be {rule}")
        return value

    return check


def check_shard_count(value: Any) -> int | None:
    return None if value is None else whole_number("shard_count", 1)(value)


def check_shards(value: Any) -> tuple[int, ...] | None:
    """Numbers and ranges, flattened, without doubles, sorted; None: all."""
    if value is None:
        return None
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ConfigurationError(
            f"shards={value!r} must be an iterable of numbers and ranges, such as [range(1, 4), 8]"
        )
    ids: set[int] = set()
    for item in value:
        numbers = item if isinstance(item, range) else (item,)
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int):
                raise ConfigurationError(f"shards has {number!r}: a shard id is a number, or several are a range")
            if number < 0:
                raise ConfigurationError(f"shards has {number}: shard ids start at 0")
            ids.add(number)
    if not ids:
        raise ConfigurationError("shards is empty: leave it out for all shards, or name at least one")
    return tuple(sorted(ids))


def check_range(shards: tuple[int, ...], shard_count: int) -> None:
    if shards[-1] >= shard_count:
        raise ConfigurationError(f"shards has {shards[-1]}, but shard_count={shard_count} ends at {shard_count - 1}")


def check_dispatcher(value: Any) -> Any:
    create_dispatcher(value)  # made anew at the start; here it is only tried
    return value


def check_permitted(value: Any) -> Any:
    if value is not None and not callable(value):
        raise ConfigurationError(f"permitted={value!r} must be a function without arguments, or None")
    return value


def check_presence(value: Any) -> Any:
    return value if value is None or callable(value) else Presence.of(value)


def check_compress(value: Any) -> str | None:
    if value not in COMPRESSIONS:
        raise ConfigurationError(f"compress={value!r} must be 'zlib-stream', 'zstd-stream' or None")
    if value == "zstd-stream":
        import_zstd()
    checked: str | None = value
    return checked


def check_overflow(value: Any) -> str:
    if value not in OVERFLOWS:
        raise ConfigurationError(f"overflow={value!r} must be 'block', 'drop_oldest' or 'drop_newest'")
    checked: str = value
    return checked


def check_proxy(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigurationError("proxy must be a url such as http://host:port")
    proxy_options(value)
    return value


def check_session_store(value: Any) -> Any:
    create_store(value)
    return value


def check_ssl_context(value: Any) -> ssl.SSLContext | None:
    if value is not None and not isinstance(value, ssl.SSLContext):
        raise ConfigurationError(f"ssl_context must be an ssl.SSLContext, not {value!r}")
    return value


CHECKS: dict[str, Callable[[Any], Any]] = {
    "token": check_token,
    "intents": check_intents,
    "url": check_url,
    "shard_count": check_shard_count,
    "shards": check_shards,
    "dispatcher": check_dispatcher,
    "permitted": check_permitted,
    "presence": check_presence,
    "compress": check_compress,
    "large_threshold": whole_number("large_threshold", 50, 250),
    "workers": whole_number("workers", 0, 1000),
    "queue_size": whole_number("queue_size", 1),
    "overflow": check_overflow,
    "api_url": check_api_url,
    "session_store": check_session_store,
    "ssl_context": check_ssl_context,
    "proxy": check_proxy,
}
