"""Where to connect: the options' url or what ``/gateway/bot`` says, and what may be followed from there."""

import logging
import time
from collections.abc import Callable
from threading import Event as Flag
from threading import Lock
from typing import Any

from .discovery import GatewayInfo, SessionStartLimit, fetch_gateway, is_loopback
from .errors import ConfigurationError, DiscoveryError
from .events import Event
from .options import Options, check_gateway_url

logger = logging.getLogger(__name__)

#: Several shards that lose their connection together ask for the url once, not each, seconds.
REFRESH_AFTER = 30.0


class Endpoint:
    """The gateway's url and shard count. Made by ``start``; shards ask it for the url when dialling fails.

    Raises DiscoveryError, AuthenticationFailed, ConfigurationError.
    """

    def __init__(
        self,
        options: Options,
        token: str,
        report: Callable[[BaseException, Event | None, object], None],
        cancelled: Flag,
    ) -> None:
        self._options = options
        self._token: Callable[[], str] = lambda: token  # no repr of this object shows it
        self._report = report
        self._cancelled = cancelled
        self._lock = Lock()
        self._asked = time.monotonic()
        #: None when nothing was asked of the API.
        self.session_start_limit: SessionStartLimit | None = None
        url = self._given(options.url)
        shard_count = options.shard_count
        if url is None or shard_count is None:
            info = self._fetch()
            self.session_start_limit = info.session_start_limit
            url = url if url is not None else self._check(info.url)
            shard_count = shard_count or info.shards
        logger.debug(
            "gateway at %s, %d shards, %s", url, shard_count, self.session_start_limit or "limits not asked for"
        )
        self.url: str = url
        self.shard_count: int = shard_count

    def _given(self, url: Any) -> str | None:
        """The ``url`` option; a callable is asked."""
        if url is None or isinstance(url, str):
            return url
        return check_gateway_url(url(), "url")

    def _fetch(self) -> GatewayInfo:
        options = self._options
        verify = options.ssl_context or True
        return fetch_gateway(
            options.api_url, self._token(), verify=verify, proxy=options.proxy, cancelled=self._cancelled
        )

    def _check(self, url: str) -> str:
        try:
            checked = check_gateway_url(url.split("?")[0], "the gateway url")
        except ConfigurationError as error:
            raise DiscoveryError(f"{self._options.api_url}/gateway/bot: {error}") from error
        if checked.startswith("ws://") and not is_loopback(self._options.api_url):
            raise DiscoveryError(f"{self._options.api_url}/gateway/bot names {url!r}, which is not encrypted")
        return checked

    def refreshed_url(self) -> str:
        """The url, asked for anew where it is not fixed. What fails leaves it as it was; a refused token is raised."""
        options = self._options
        with self._lock:
            if isinstance(options.url, str) or time.monotonic() - self._asked < REFRESH_AFTER:
                return self.url
            self._asked = time.monotonic()
        try:
            if options.url is None:
                self.url = self._check(self._fetch().url)
            else:
                self.url = self._given(options.url) or self.url
        except DiscoveryError as error:
            logger.warning("keeping the gateway url: %s", error)
        except Exception as error:
            if options.url is None:
                raise
            self._report(error, None, options.url)
        return self.url

    def may_resume_at(self, url: str) -> bool:
        """Whether a resume url may be followed: encrypted; plain only where ours is, and on the same side of loopback.

        The token goes there, so a READY must not be able to lead it off an encrypted connection.
        """
        try:
            check_gateway_url(url.split("?")[0], "resume_gateway_url")
        except ConfigurationError:
            return False
        return url.startswith("wss://") or (self.url.startswith("ws://") and is_loopback(url) == is_loopback(self.url))
