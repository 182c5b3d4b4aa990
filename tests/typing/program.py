"""A user's program, for type checkers: it is checked by mypy and pyright against the installed package, not run."""

from typing import Any, assert_type

import msgspec
from prometheus_client import CollectorRegistry

from crux_sync import Activity, CruxError, Event, Gateway, Intents, PartitionDispatcher, Presence, Shard, Subscription
from crux_sync.metrics import GatewayCollector, instrument
from crux_sync.simulator import Replay, Simulator


class Message(msgspec.Struct):
    """The fields this program wants."""

    id: str
    content: str


gateway = Gateway(
    "token",
    intents=Intents.default() | Intents.MESSAGE_CONTENT,
    shards=[range(1, 4), 8],
    shard_count=16,
    dispatcher=PartitionDispatcher(4),
    presence=Presence(status="idle", activities=[Activity("chess")]),
)


@gateway.on("MESSAGE_CREATE", type=Message)
def on_message(event: Event) -> None:
    """A callback."""
    print(event.type, event.data.content, event.shard_id)


# The decorator leaves the function as it is.
on_message(Event.create("MESSAGE_CREATE", {"id": "1", "content": ""}))


@gateway.on_error
def on_error(error: BaseException, event: Event | None, callback: Any) -> None:
    """An error handler."""


def main() -> None:
    """Every way to receive, and some to send."""
    assert_type(gateway.start(), list[Shard])
    subscription = gateway.subscribe("MESSAGE_CREATE", maxsize=10)
    assert_type(subscription, Subscription)
    assert_type(subscription.get(timeout=1.0), Event)
    assert_type(gateway.wait_for("READY", check=lambda event: event.shard_id == 0, timeout=30), Event)
    assert_type(gateway.shards[0].latency, float | None)
    assert_type(gateway.stats().shards[0].events, int)
    collector = instrument(gateway, CollectorRegistry())
    assert_type(collector, GatewayCollector)
    for event in gateway:
        name, data, shard_id = event
        print(name, data, shard_id)
    try:
        gateway.update_presence(status="dnd", shard_id=3)
        gateway.send({"op": 3, "d": {}}, shard_id=0)
    except CruxError:
        gateway.close(resume=True, timeout=5.0)


def test_with_the_simulator() -> None:
    """A test of a bot."""
    with Simulator(shards=2) as discord, Gateway("test", api_url=discord.api_url):
        replay = discord.replay("bug.gz", speed=0)
        assert_type(replay, Replay)
        assert_type(replay.wait(10), bool)
        discord.dispatch("MESSAGE_CREATE", {"guild_id": "1"})
