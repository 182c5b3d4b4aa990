"""What all processes of a bot must agree on: the first one says it, the others compare."""

from typing import Any

from ..errors import ConfigurationError
from .keys import Keys


def agree(client: Any, keys: Keys, **values: int) -> None:
    """Say these values, or find them said. Raises ConfigurationError where another process said otherwise."""
    for name, value in values.items():
        client.hsetnx(keys.config, name, value)
        known = int(client.hget(keys.config, name))
        if known != value:
            raise ConfigurationError(
                f"{name}={value}, but this cluster runs with {known}: stop all of its processes, and delete "
                f"{keys.config} in Redis, to change it"
            )


def agreed(client: Any, keys: Keys, name: str) -> int | None:
    """What was said; None: nothing yet. Raises RedisError."""
    known = client.hget(keys.config, name)
    return None if known is None else int(known)
