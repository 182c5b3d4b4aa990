"""hikari as a peer: it logs in, gets a message, is dropped, resumes, chunks a guild. A line of output for each."""

import asyncio
import sys

api_url, gateway_url, compress = sys.argv[1:]
if compress == "zlib-stream":  # it takes zstd wherever it finds a module for it
    sys.modules["zstandard"] = sys.modules["compression.zstd"] = sys.modules["backports.zstd"] = None

import hikari  # noqa: E402

bot = hikari.GatewayBot(
    "NQ.made.up",
    intents=hikari.Intents.ALL,
    rest_url=api_url,
    banner=None,
    logs=None,
    suppress_optimization_warning=True,
    auto_chunk_members=False,
)
large = []


@bot.listen(hikari.ShardReadyEvent)
async def ready(event):
    print("ready", flush=True)


@bot.listen(hikari.GuildAvailableEvent)
async def guild(event):
    large.append((event.guild.member_count, event.guild.id))


@bot.listen(hikari.MessageCreateEvent)
async def message(event):
    print("message", event.message.content, flush=True)


@bot.listen(hikari.ShardResumedEvent)
async def resumed(event):
    print("resumed", flush=True)
    await bot.request_guild_members(max(large)[1], include_presences=False)


members = []


@bot.listen(hikari.MemberChunkEvent)
async def chunk(event):
    members.extend(event.members)
    if event.chunk_index == event.chunk_count - 1:
        print("members", len(members), flush=True)
        await bot.close()


async def main():
    await bot.start(check_for_updates=False)
    await bot.join()


asyncio.run(main())
