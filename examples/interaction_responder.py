"""Answers to slash commands, each with its latency: it needs no intent at all, and no token for the answer.

Make the command ``ping`` for your application first: ``POST /applications/{id}/commands`` with
``{"name": "ping", "description": "how far away is Discord?"}``.
"""

import os

import requests

from crux_sync import Gateway, Intents

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")
APPLICATION_COMMAND, MESSAGE, ONLY_FOR_YOU = 2, 4, 1 << 6

gateway = Gateway(api_url=API, intents=Intents.none(), workers=4)  # Discord waits three seconds: answer several at once


def ping(interaction, shard_id):
    latency = gateway.shards[shard_id].latency
    return "no heartbeat has been answered yet" if latency is None else f"{latency * 1000:.0f} ms"


COMMANDS = {"ping": ping}


@gateway.on("INTERACTION_CREATE")
def interaction(event):
    asked = event.data
    if asked["type"] != APPLICATION_COMMAND:
        return
    command = COMMANDS.get(asked["data"]["name"])
    content = command(asked, event.shard_id) if command else "I do not know that command"
    answer = {"type": MESSAGE, "data": {"content": content, "flags": ONLY_FOR_YOU}}
    url = f"{API}/interactions/{asked['id']}/{asked['token']}/callback"
    requests.post(url, json=answer, timeout=3).raise_for_status()


if __name__ == "__main__":
    gateway.run()
