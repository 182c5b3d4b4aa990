"""A bot of callbacks: one function for each thing that happens."""

import os

from crux_sync import Gateway, Intents

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")

gateway = Gateway(api_url=API, intents=Intents.default() | Intents.MESSAGE_CONTENT)


@gateway.on("SHARD_READY")
def ready(event):
    print(f"shard {event.shard_id} is ready, in {event.data['guilds']} guilds")


@gateway.on("MESSAGE_CREATE")
def message(event):
    print(f"{event.data['author']['username']}: {event.data['content']}")


@gateway.on_error
def error(error, event, callback):
    print(f"{callback.__name__} failed for {event}: {error!r}")


if __name__ == "__main__":
    gateway.run()
