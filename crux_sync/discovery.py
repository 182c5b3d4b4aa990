"""``GET /gateway/bot`` (protocol, section 1), and who the bot is. The only importer of requests."""

import ipaddress
from threading import Event as Flag
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests

from .connection import USER_AGENT
from .errors import AuthenticationFailed, DiscoveryError

#: Seconds for the connection and for each read of the answer.
REQUEST_TIMEOUT = (10.0, 20.0)

#: Attempts before giving up on answers that may be better next time (429, 5xx).
ATTEMPTS = 4

#: The longest that a 429 may make us wait, seconds; a longer one is an error the caller should see.
LONGEST_WAIT = 60.0

#: Where a 429 names no delay, seconds.
DEFAULT_WAIT = 5.0


class SessionStartLimit(NamedTuple):
    """How many identifies Discord grants."""

    total: int
    remaining: int
    #: Seconds until ``remaining`` is ``total`` again.
    reset_after: float
    max_concurrency: int


class GatewayInfo(NamedTuple):
    """What ``/gateway/bot`` says."""

    url: str
    shards: int
    session_start_limit: SessionStartLimit


def fetch_gateway(
    api_url: str, token: str, *, verify: Any = True, proxy: str | None = None, cancelled: Flag | None = None
) -> GatewayInfo:
    """Ask the API for the gateway's url, the shard count and the session start limit.

    Waits out short rate limits and server errors. Raises AuthenticationFailed (401), DiscoveryError (all else).
    """
    url = f"{api_url}/gateway/bot"
    return read_info(url, fetch(url, token, verify, proxy, cancelled))


def fetch_account(api_url: str, token: str, *, verify: Any = True, proxy: str | None = None) -> dict[str, Any]:
    """The bot's own user. Raises as ``fetch_gateway``."""
    return fetch_object(f"{api_url}/users/@me", token, verify, proxy)


def fetch_application(api_url: str, token: str, *, verify: Any = True, proxy: str | None = None) -> dict[str, Any]:
    """The bot's application, with its flags. Raises as ``fetch_gateway``."""
    return fetch_object(f"{api_url}/applications/@me", token, verify, proxy)


def fetch_object(url: str, token: str, verify: Any, proxy: str | None) -> dict[str, Any]:
    response = fetch(url, token, verify, proxy, None)
    try:
        body = response.json()
    except ValueError as error:
        raise DiscoveryError(f"{url} answered something that is no JSON") from error
    if not isinstance(body, dict):
        raise DiscoveryError(f"{url} answered something that is no object")
    return body


def fetch(url: str, token: str, verify: Any, proxy: str | None, cancelled: Flag | None) -> requests.Response:
    """The first good answer, after short rate limits and server errors."""
    stop = cancelled or Flag()
    problem = ""
    for attempt in range(ATTEMPTS):
        try:
            response = get_json(url, token, verify, proxy)
        except requests.RequestException as error:
            raise DiscoveryError(f"{url} cannot be reached: {error}") from error
        if response.status_code == 200:
            return response
        if response.status_code == 401:
            raise AuthenticationFailed()
        problem = f"{url} answered HTTP {response.status_code}: {response.text[:200]!r}"
        delay = retry_delay(response, attempt)
        if delay is None or attempt == ATTEMPTS - 1 or stop.wait(delay):
            break
    raise DiscoveryError(problem)


def get_json(url: str, token: str, verify: Any, proxy: str | None) -> requests.Response:
    headers = {"Authorization": f"Bot {token}", "User-Agent": USER_AGENT}
    with requests.Session() as session:
        if proxy:
            session.proxies = {"http": proxy, "https": proxy}
        if verify is not True:
            session.mount("https://", ContextAdapter(verify))
        # A redirect could carry the token elsewhere.
        return session.get(url, headers=headers, timeout=REQUEST_TIMEOUT, allow_redirects=False)


class ContextAdapter(requests.adapters.HTTPAdapter):
    """Uses the caller's SSLContext."""

    def __init__(self, context: Any) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return super().proxy_manager_for(*args, **kwargs, ssl_context=self._context)


def retry_delay(response: requests.Response, attempt: int) -> float | None:
    """Seconds to wait before asking again; None: it would not help."""
    if response.status_code == 429:
        delay = rate_limit_delay(response)
        return delay if delay <= LONGEST_WAIT else None
    if response.status_code >= 500:
        return float(2**attempt) / 2
    return None


def rate_limit_delay(response: requests.Response) -> float:
    """``retry_after`` of the body, else the header: the edge answers with text that is no JSON (1.3)."""
    try:
        return max(float(response.json()["retry_after"]), 0.0)
    except (ValueError, KeyError, TypeError):
        try:
            return max(float(response.headers["Retry-After"]), 0.0)
        except (ValueError, KeyError):
            return DEFAULT_WAIT


def read_info(url: str, response: requests.Response) -> GatewayInfo:
    try:
        body = response.json()
        limit = body["session_start_limit"]
        info = GatewayInfo(
            body["url"],
            int(body["shards"]),
            SessionStartLimit(
                int(limit["total"]),
                int(limit["remaining"]),
                float(limit["reset_after"]) / 1000,
                max(int(limit["max_concurrency"]), 1),
            ),
        )
        if not isinstance(info.url, str) or info.shards < 1:
            raise ValueError("url or shards")
    except (ValueError, KeyError, TypeError) as error:
        raise DiscoveryError(f"{url} answered something that is no gateway information ({error!r})") from error
    return info


def is_loopback(url: str) -> bool:
    """Whether the url's host is this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
