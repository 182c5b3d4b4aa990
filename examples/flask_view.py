"""A Flask page over what the gateway has seen. Run one process: ``flask --app flask_view run --no-reload``.

The gateway starts with the first request, in the process that serves it, and so after any fork.
"""

import os
import threading

from flask import Flask, jsonify

from crux_sync import Gateway

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")

app = Flask(__name__)
gateway = Gateway(api_url=API)
guilds: dict[str, str] = {}
started = threading.Lock()


@gateway.on("GUILD_CREATE")
def guild_create(event):
    guilds[event.data["id"]] = event.data["name"]


@gateway.on("GUILD_DELETE")
def guild_delete(event):
    guilds.pop(event.data["id"], None)


@app.before_request
def start_once():
    with started:
        if not gateway.shards:
            gateway.start()


@app.get("/")
def status():
    shards = {shard.id: shard.state for shard in gateway.shards.values()}
    return jsonify(guilds=guilds, shards=shards)
