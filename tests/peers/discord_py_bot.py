"""discord.py as a peer: it logs in, gets a message, is dropped, resumes, chunks a guild. A line of output for each."""

import asyncio
import sys

api_url, gateway_url, compress = sys.argv[1:]
if compress == "zlib-stream":  # it takes zstd wherever it finds a module for it
    sys.modules["zstandard"] = sys.modules["compression.zstd"] = None

import discord  # noqa: E402
import yarl  # noqa: E402
from discord import gateway, utils  # noqa: E402

assert compress == utils._ActiveDecompressionContext.COMPRESSION_TYPE
discord.http.Route.BASE = api_url
gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(gateway_url)


class Client(discord.Client):
    async def on_ready(self):
        print("ready", flush=True)

    async def on_message(self, message):
        print("message", message.content, flush=True)

    async def on_resumed(self):
        print("resumed", flush=True)
        members = await max(self.guilds, key=lambda guild: guild.member_count).chunk()
        print("members", len(members), flush=True)
        await self.close()


intents = discord.Intents.all()
asyncio.run(Client(intents=intents, chunk_guilds_at_startup=False, max_ratelimit_timeout=30).start("NQ.made.up"))
