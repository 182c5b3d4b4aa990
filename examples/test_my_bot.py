"""Testing a bot: the fixture ``discord`` is an offline Discord. Run it with pytest."""

import pytest

from crux_sync import Gateway, Intents


class Greeter:
    """The bot under test: it notes whom to greet."""

    def __init__(self, gateway: Gateway) -> None:
        self.greeted: list[str] = []
        gateway.on("GUILD_MEMBER_ADD")(self.member_add)

    def member_add(self, event) -> None:
        self.greeted.append(event.data["user"]["username"])


@pytest.mark.discord(shards=2)
def test_it_greets_also_those_who_came_while_it_was_away(discord):
    gateway = Gateway("test", api_url=discord.api_url, intents=Intents.default() | Intents.GUILD_MEMBERS)
    greeter = Greeter(gateway)
    ready = gateway.subscribe("SHARD_READY")
    with gateway:
        for _ in range(2):
            ready.get(timeout=10)
        discord.drop(shard_id=0)
        discord.dispatch("GUILD_MEMBER_ADD", {"guild_id": "0", "user": {"id": "5", "username": "ada"}})
        gateway.wait_for("SHARD_RESUMED", timeout=10)
    assert greeter.greeted == ["ada"]
