"""The clients that are measured, each in a process of its own.

``python -m benchmarks.clients NAME URL CA_FILE COMPUTE`` prints a line of JSON: CPU and wall seconds from READY to the
last event, and how many events it saw. ``COMPUTE`` is a number of threads of pure Python to run beside it.
"""

import json
import os
import pathlib
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable

from .load import LAST


class Clock:
    """Starts at READY, reports at the last event."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def start(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def report(self, seen: int) -> None:
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        print(json.dumps({"cpu": cpu, "wall": wall, "seen": seen}), flush=True)


def crux(mode: str) -> Callable[[str, ssl.SSLContext | None], None]:
    def run(url: str, context: ssl.SSLContext | None) -> None:
        import msgspec

        from crux_sync import Gateway, Intents

        class Message(msgspec.Struct):
            id: str
            content: str

        gateway = Gateway("test", url=url, shard_count=1, intents=Intents.all(), ssl_context=context)
        clock, done, seen = Clock(), threading.Event(), [0]

        def count(event):
            seen[0] += 1
            event.data  # noqa: B018 - decodes

        names = {"nothing": (), "messages": ("MESSAGE_CREATE",), "typed": ("MESSAGE_CREATE",), "all": (None,)}[mode]
        for name in names:
            gateway.on(*([name] if name else []), type=Message if mode == "typed" else None)(count)
        gateway.on("READY")(lambda event: clock.start())
        gateway.on(LAST)(lambda event: done.set())
        gateway.start()
        done.wait()
        clock.report(seen[0])
        gateway.close(resume=True, timeout=1.0)

    return run


def by_hand(url: str, context: ssl.SSLContext | None) -> None:
    """websocket-client, zlib and json, as people write it."""
    import websocket

    clock, seen, buffer, inflator = Clock(), 0, bytearray(), zlib.decompressobj()
    sslopt = {"context": context} if context else None
    client = websocket.create_connection(f"{url}/?v=10&encoding=json&compress=zlib-stream", sslopt=sslopt)
    while True:
        message = client.recv()
        buffer.extend(message)
        if buffer[-4:] != b"\x00\x00\xff\xff":
            continue
        payload = json.loads(inflator.decompress(buffer))
        buffer = bytearray()
        if payload["op"] == 10:
            client.send(json.dumps({"op": 2, "d": {"token": "test", "intents": 1, "properties": {}}}))
        elif payload["op"] == 0:
            if payload["t"] == "READY":
                clock.start()
            seen += 1
            if payload["t"] == LAST:
                break
    clock.report(seen)


def discord_py(*, whole: bool) -> Callable[[str, ssl.SSLContext | None], None]:
    def run(url: str, context: ssl.SSLContext | None) -> None:
        import asyncio

        sys.modules["zstandard"] = None  # type: ignore[assignment] - zlib-stream, as the others
        import aiohttp
        import discord
        import yarl
        from discord import gateway

        clock, seen = Clock(), [0]

        async def main() -> None:
            client = discord.Client(intents=discord.Intents.all(), chunk_guilds_at_startup=False, max_messages=None)
            await client._async_setup_hook()
            connector = aiohttp.TCPConnector(ssl=context) if context else aiohttp.TCPConnector()
            client.http.connector = connector
            client.http._HTTPClient__session = aiohttp.ClientSession(
                connector=connector, ws_response_class=discord.http.DiscordClientWebSocketResponse
            )
            client.http.token = "test"
            client._connection._get_client = lambda: client
            parsers = client._connection.parsers
            if not whole:
                for name in list(parsers):
                    parsers[name] = lambda data: None
            ready = parsers["READY"]
            finished = asyncio.get_running_loop().create_future()

            def on_ready(data):
                clock.start()
                ready(data)

            parsers["READY"] = on_ready
            parsers[LAST] = lambda data: finished.done() or finished.set_result(None)
            socket = await gateway.DiscordWebSocket.from_client(client, gateway=yarl.URL(url), shard_id=0)

            async def poll() -> None:
                while not finished.done():
                    await socket.poll_event()

            await poll()
            clock.report(seen[0])
            os._exit(0)

        asyncio.run(main())

    return run


def hikari_payloads(url: str, context: ssl.SSLContext | None) -> None:
    """hikari with a listener for raw payloads only and no cache: nothing is deserialised."""
    import asyncio

    import hikari
    from hikari.api import GatewayCompression
    from hikari.impl import CacheSettings, HTTPSettings
    from hikari.impl.shard import GatewayShardImpl

    clock, seen = Clock(), 0

    async def main() -> None:
        nonlocal seen
        bot = hikari.GatewayBot(
            "NQ.made.up",
            banner=None,
            intents=hikari.Intents.ALL,
            cache_settings=CacheSettings(components=hikari.api.CacheComponents.NONE),
            http_settings=HTTPSettings(ssl=context) if context else None,
            auto_chunk_members=False,
        )
        finished = asyncio.get_running_loop().create_future()

        async def on_payload(event: hikari.ShardPayloadEvent) -> None:
            nonlocal seen
            seen += 1
            if event.name == "READY":
                clock.start()
            elif event.name == LAST:
                finished.set_result(None)

        bot.event_manager.subscribe(hikari.ShardPayloadEvent, on_payload)
        shard = GatewayShardImpl(
            compression=GatewayCompression.TRANSPORT_ZLIB_STREAM,
            http_settings=bot.http_settings,
            proxy_settings=bot.proxy_settings,
            event_manager=bot.event_manager,
            event_factory=bot._event_factory,
            intents=bot.intents,
            token="NQ.made.up",
            url=url,
        )
        await shard.start()
        await finished
        clock.report(seen)
        os._exit(0)

    asyncio.run(main())


def discord_js(url: str, context: ssl.SSLContext | None) -> None:
    """@discordjs/ws on Node with zlib-sync; it reports for itself, and fails when zlib-sync is not loaded."""
    environment = os.environ | ({"NODE_EXTRA_CA_CERTS": sys.argv[3]} if context else {})
    script = pathlib.Path(__file__).with_name("discordjs.mjs")
    subprocess.run(["node", script, url, node_modules()], env=environment, check=True)


def node_modules() -> pathlib.Path:
    """@discordjs/ws and a compiled zlib-sync, installed once and kept in the user's temporary directory."""
    place = pathlib.Path(tempfile.gettempdir()) / f"crux-sync-benchmark-{os.getuid()}"
    if not any(place.glob("node_modules/zlib-sync/build/Release/zlib_sync.node")):
        place.mkdir(exist_ok=True)
        (place / "package.json").write_text('{"name": "benchmark", "private": true}')
        install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "@discordjs/ws@2", "zlib-sync@0.1"]
        for command in (install, ["npm", "rebuild", "--foreground-scripts", "zlib-sync"]):
            subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=300)
    return place


def scan(url: str, context: ssl.SSLContext | None) -> None:
    """Not a client: what inflating and scanning the envelopes costs alone, the bytes being there already."""
    from zlib_ng import zlib_ng

    from crux_sync.events import envelope_decoder

    from .load import Stream

    messages = Stream(int(os.environ["CRUX_BENCHMARK_EVENTS"]), keep=True).messages
    decode, inflate = envelope_decoder().decode, zlib_ng.decompressobj().decompress
    clock = Clock()
    for number, message in enumerate(messages):
        if number == 2:  # Hello and READY are over
            clock.start()
        decode(inflate(message))
    clock.report(len(messages) - 2)


CLIENTS: dict[str, Callable[[str, ssl.SSLContext | None], None]] = {
    "crux_sync, nothing": crux("nothing"),
    "crux_sync, messages": crux("messages"),
    "crux_sync, typed": crux("typed"),
    "crux_sync, everything": crux("all"),
    "by hand": by_hand,
    "discord.py, gateway": discord_py(whole=False),
    "discord.py, whole": discord_py(whole=True),
    "hikari, raw payloads": hikari_payloads,
    "@discordjs/ws, zlib-sync": discord_js,
    "inflate + scan alone": scan,
}


def compute() -> None:
    """A thread that never lets go of the GIL by itself."""
    total = 0
    while True:
        for number in range(10_000):
            total += number * number


def main() -> None:
    name, url, authority, threads = sys.argv[1:5]
    context = ssl.create_default_context(cafile=authority) if authority else None
    for _ in range(int(threads)):
        threading.Thread(target=compute, daemon=True).start()
    CLIENTS[name](url, context)


if __name__ == "__main__":
    main()
