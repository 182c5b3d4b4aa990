"""A bot that answers: the gateway brings the messages, plain ``requests`` posts the answers."""

import os

import requests

from crux_sync import Gateway, Intents

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")

gateway = Gateway(api_url=API, intents=Intents.default() | Intents.MESSAGE_CONTENT)
http = requests.Session()
http.headers["Authorization"] = f"Bot {os.environ['DISCORD_TOKEN']}"


@gateway.on("MESSAGE_CREATE")
def message(event):
    said = event.data
    if said["author"].get("bot") or not said["content"].startswith("!echo "):
        return  # its own messages come back too
    answer = {
        "content": said["content"].removeprefix("!echo "),
        "message_reference": {"message_id": said["id"]},
        "allowed_mentions": {"parse": []},  # whoever asks for "@everyone" wakes nobody
    }
    http.post(f"{API}/channels/{said['channel_id']}/messages", json=answer, timeout=10).raise_for_status()


if __name__ == "__main__":
    gateway.run()
