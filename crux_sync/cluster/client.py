"""The connection to Redis: made here, and waited for here when it is away. The only importer of redis.

Redis being away, loading, full or read-only is no error to the callers of ``patient``: it is waited out.
"""

import logging
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ..errors import ConfigurationError, CruxWarning, GatewayClosed

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:  # pragma: no cover
    raise ImportError("the cluster needs redis: pip install 'crux_sync[redis]'") from error

logger = logging.getLogger(__name__)

#: Seconds until a command that gets no answer is given up.
SOCKET_TIMEOUT = 5.0

#: Waits between tries while Redis is away, seconds.
BACKOFF_FIRST, BACKOFF_CAP = 0.05, 2.0

Result = TypeVar("Result")

Redis = redis.Redis
RedisError = redis.RedisError
RedisTimeout = redis.TimeoutError
ResponseError = redis.ResponseError

#: What passes by itself. Full memory is a ResponseError of its own kind; ``-LOADING`` and the like are among these.
PASSING = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.BusyLoadingError,
    redis.ReadOnlyError,
    redis.OutOfMemoryError,
)


def connect(url: str) -> Any:
    """A client for ``redis://``, ``rediss://`` or ``unix://``. Nothing is sent yet. Raises ConfigurationError."""
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=SOCKET_TIMEOUT,
            socket_connect_timeout=SOCKET_TIMEOUT,
            health_check_interval=0,
            retry=Retry(NoBackoff(), 0),
        )
    except (ValueError, AttributeError) as error:
        raise ConfigurationError(f"{url!r} is no Redis url: {error}") from error


def warn_of_persistence(client: Any) -> bool:
    """Whether the server keeps an append-only file; a CruxWarning when it does not. Raises RedisError."""
    try:
        kept = client.info("persistence").get("aof_enabled") == 1
    except ResponseError:  # an account without the right to ask
        return True
    if not kept:
        text = "this Redis has no append-only file (appendonly yes): events that are not handled go when it restarts"
        warnings.warn(text, CruxWarning, stacklevel=3)
        logger.warning(text)
    return bool(kept)


def patient(work: Callable[[], Result], stopping: threading.Event) -> Result | None:
    """``work()``, again and again while Redis is away or full; None: ``stopping`` was set meanwhile."""
    wait, told = BACKOFF_FIRST, False
    while not stopping.is_set():
        try:
            return work()
        except PASSING as error:
            if not told:
                logger.warning("waiting for Redis: %s", error)
                told = True
            stopping.wait(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, BACKOFF_CAP)
    return None


class Lent:
    """A client that several threads borrow. It is closed when the last of them is done: used later, it would open a
    connection that nobody closes."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._condition = threading.Condition()
        self._borrowers = 0
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[Any]:
        """The client, for one command. Raises GatewayClosed."""
        with self._condition:
            if self._closed:
                raise GatewayClosed("the worker is closed")
            self._borrowers += 1
        try:
            yield self._client
        finally:
            with self._condition:
                self._borrowers -= 1
                self._condition.notify_all()

    def close(self, timeout: float) -> None:
        """Lend it no more, and close it; who has it may finish, for ``timeout`` seconds."""
        with self._condition:
            self._closed = True
            self._condition.wait_for(lambda: not self._borrowers, timeout)
        self._client.close()
