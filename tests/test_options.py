"""Bad input gets a clear error before anything is sent."""

import contextlib
import socket
import time
import warnings

import pytest

from crux_sync import (
    AuthenticationFailed,
    BroadcastDispatcher,
    ConfigurationError,
    CruxWarning,
    DemandDispatcher,
    DiscoveryError,
    Gateway,
    Intents,
    PartitionDispatcher,
    SessionStartLimitReached,
)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shards": [5], "shard_count": 4}, "shards has 5, but shard_count=4 ends at 3"),
        ({"shards": []}, "empty"),
        ({"shards": [range(0)]}, "empty"),
        ({"shards": ["a"]}, "'a'"),
        ({"shards": "01"}, "iterable of numbers"),
        ({"shards": 3}, "iterable of numbers"),
        ({"shards": [True]}, "True"),
        ({"shards": [-1]}, "start at 0"),
        ({"shards": [range(-2, 1)]}, "start at 0"),
        ({"shard_count": 0}, "shard_count=0 must be a whole number of 1 or more"),
        ({"shard_count": 1.5}, "shard_count=1.5"),
        ({"workers": -1}, "workers=-1"),
        ({"queue_size": 0}, "queue_size=0"),
        ({"large_threshold": 10}, "from 50 to 250"),
        ({"intents": "all"}, "intents must be"),
        ({"intents": 1 << 17}, "0x20000"),
        ({"intents": -1}, "intents=-1"),
        ({"overflow": "drop"}, "overflow='drop'"),
        ({"compress": "gzip"}, "compress='gzip'"),
        ({"url": "wss://gateway.test/?v=10"}, "no query"),
        ({"url": "https://gateway.test"}, "wss://"),
        ({"url": "wss://"}, "name a host"),
        ({"url": "wss://host:port"}, "no url"),
        ({"url": 5}, "url must be"),
        ({"api_url": "http://discord.com/api/v10"}, "plain http"),
        ({"api_url": "discord.com"}, "https://"),
        ({"proxy": "gopher://x"}, "gopher"),
        ({"ssl_context": True}, "SSLContext"),
        ({"dispatcher": "broadcast"}, "dispatcher must be"),
        ({"dispatcher": PartitionDispatcher}, "partitions"),
        ({"dispatcher": (PartitionDispatcher, {"partitions": 0})}, "partitions must be 1 or more"),
        ({"dispatcher": (PartitionDispatcher, {"partitions": 2, "hash": 5})}, "hash must be a callable"),
        ({"presence": {"status": "sleeping"}}, "status='sleeping'"),
        ({"presence": {"activities": [{"name": ""}]}}, "activity name=''"),
        ({"presence": 5}, "presence must be"),
        ({"token": ""}, "non-empty"),
        ({"token": "Bot abc"}, "bare token"),
        ({"token": "a b"}, "bare token"),
        ({"tokn": "x"}, "'tokn' is no option"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(ConfigurationError, match=r".") as raised:
        Gateway(**{"token": "made-up", **options})
    assert says in str(raised.value)
    assert isinstance(raised.value, ValueError)


def test_no_token(monkeypatch):
    monkeypatch.delenv("DISCORD_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match="DISCORD_TOKEN"):
        Gateway().start()


def test_the_environment_gives_the_token(monkeypatch, connect, log):
    monkeypatch.setenv("DISCORD_TOKEN", "test")
    gateway = connect(None)
    gateway.on("SHARD_READY")(log)
    gateway.start()
    assert log.has("SHARD_READY")


@pytest.mark.parametrize(
    "dispatcher",
    [
        BroadcastDispatcher,
        DemandDispatcher(),
        (PartitionDispatcher, {"partitions": ["a", "b"]}),
        PartitionDispatcher(4),
    ],
)
def test_dispatchers_in_every_form(dispatcher):
    Gateway("made-up", dispatcher=dispatcher)


def test_shards_are_flattened(connect, discord):
    gateway = connect(shards=(number for number in (range(3, 1, -1), 8, 2)), shard_count=9, url=discord.url)
    assert [shard.id for shard in gateway.start()] == [2, 3, 8]


def test_shards_beyond_what_discord_says(connect):
    with pytest.raises(ConfigurationError, match="shard_count=1 ends at 0"):
        connect(shards=[1]).start()


def test_an_unreachable_api_names_address_and_cause():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(DiscoveryError, match=rf"127\.0\.0\.1.*{port}.*refused"):
            Gateway("made-up", api_url=f"http://127.0.0.1:{port}/api/v10").run()


@pytest.mark.parametrize("answer", [(404, None), (403, None), (200, b"<html>"), (200, {"url": 5}), (200, [])])
def test_an_api_that_answers_nonsense(discord, connect, answer):
    discord.answer_http(*answer)
    with pytest.raises(DiscoveryError, match="gateway/bot answered"):
        connect().run()


@pytest.mark.parametrize("json_body", [True, False])
def test_a_short_rate_limit_is_waited_out(discord, connect, json_body):
    discord.rate_limit_http(0.05, json_body=json_body)
    connect().start()
    assert discord.wait_ready()
    assert len(discord.requests) == 2


def test_a_long_rate_limit_is_told(discord, connect):
    discord.rate_limit_http(4000)
    with pytest.raises(DiscoveryError, match="429"):
        connect().start()


def test_a_server_error_is_tried_again(discord, connect):
    discord.answer_http(502)
    connect().start()
    assert discord.wait_ready()


@pytest.mark.discord(shards=4, remaining=3)
def test_more_shards_than_session_starts(discord, connect):
    with pytest.raises(SessionStartLimitReached, match="3 of 1000 are left") as raised:
        connect().start()
    assert raised.value.remaining == 3
    assert discord.connections == 0


@pytest.mark.discord(shards=2, remaining=1, identify_period=0.0)
def test_session_starts_may_be_waited_for(discord, connect):
    discord._core.resets = time.monotonic() + 1.5
    gateway = connect(wait_for_session_starts=True)
    gateway.start()
    assert discord.wait_ready(1)
    assert discord.remaining == 0
    assert discord.wait_ready(2, timeout=15)
    assert discord.violations == []


# ------------------------------------------------------------------ names and intents


def test_an_unknown_event_earns_the_nearest_match():
    with pytest.warns(CruxWarning, match="'MESAGE_CREATE' is no documented.*'MESSAGE_CREATE'"):
        Gateway("made-up").on("MESAGE_CREATE")


@pytest.mark.parametrize(
    ("name", "intents", "says"),
    [
        ("PRESENCE_UPDATE", Intents.default(), "GUILD_PRESENCES"),
        ("MESSAGE_CREATE", Intents.GUILDS, "GUILD_MESSAGES or DIRECT_MESSAGES"),
        ("MESSAGE_CREATE", Intents.default(), "MESSAGE_CONTENT"),
    ],
)
def test_intents_that_hide_what_is_listened_to(name, intents, says):
    gateway = Gateway("made-up", intents=intents)
    for use in (lambda: gateway.on(name), lambda: gateway.once(name), lambda: gateway.subscribe(name)):
        with pytest.warns(CruxWarning, match=says):
            use()


@pytest.mark.parametrize("use", ["on", "once", "subscribe", "wait_for"])
def test_a_warning_points_at_the_caller(use):
    method = getattr(Gateway("made-up"), use)
    options = {"timeout": 0} if use == "wait_for" else {}
    with pytest.warns(CruxWarning) as record, contextlib.suppress(TimeoutError):
        method("MESAGE_CREATE", **options)
    assert record[0].filename == __file__


def test_what_is_fine_earns_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gateway = Gateway("made-up", intents=Intents.all())
        gateway.on()
        gateway.on("MESSAGE_CREATE", "SHARD_READY", "INTERACTION_CREATE")


@pytest.mark.parametrize("names", [(5,), ("",), (lambda event: None,)])
def test_names_that_are_none(names):
    with pytest.raises(ConfigurationError, match="event name"):
        Gateway("made-up").on(*names)


async def coroutine(event): ...


class CallableCoroutine:
    async def __call__(self, event): ...


@pytest.mark.parametrize("function", [coroutine, CallableCoroutine()])
def test_coroutines_are_refused_with_a_hint(function):
    with pytest.raises(ConfigurationError, match="`def`, not `async def`"):
        Gateway("made-up").on()(function)


def test_decorating_returns_the_function():
    def function(event): ...

    gateway = Gateway("made-up")
    assert gateway.on()(function) is function
    assert gateway.once("READY")(function) is function
    assert gateway.on_error(function) is function


# ------------------------------------------------------------------ the token

CANARY = "canary.made-up.token"


def everything(error: BaseException | None, records) -> str:
    import traceback

    text = "".join(traceback.format_exception(error)) + repr(error) if error is not None else ""
    return text + "\n".join(record.getMessage() + str(record.exc_text) + repr(record.args) for record in records)


@pytest.mark.discord(allow_violations=True)
@pytest.mark.parametrize("fault", ["401", "4004", "refused", "nonsense", "429", "upgrade", "fatal later", "presence"])
def test_the_token_is_nowhere(discord, caplog, fault):
    caplog.set_level("DEBUG")
    options = {"api_url": discord.api_url, "intents": 0}
    discord.settings.token = CANARY
    if fault == "401":
        discord.settings.token = "another"
    elif fault == "4004":
        discord.settings.token = "another"
        options |= {"url": discord.url, "shard_count": 1}
    elif fault == "refused":
        options["api_url"] = "http://127.0.0.1:9/api/v10"
    elif fault == "nonsense":
        discord.answer_http(200, b"nonsense")
    elif fault == "429":
        discord.rate_limit_http(4000)
    elif fault == "upgrade":
        discord.refuse_upgrade(403)
    elif fault == "presence":
        options["presence"] = lambda shard_id: 1 / 0
    gateway = Gateway(CANARY, **options)
    error = None
    try:
        gateway.start()
        discord.wait_ready(timeout=5)
        if fault == "fatal later":
            discord.close_connection(0, code=4004)
            gateway.join(timeout=5)
    except (AuthenticationFailed, DiscoveryError) as caught:
        error = caught
    finally:
        text = repr(gateway) + repr(gateway._options) + repr(gateway._wiring) + repr(gateway.shards)
        gateway.close()
    assert CANARY not in text + everything(error, caplog.records)
    assert caplog.records
