"""The clients that are measured, each in a process of its own.

``python -m benchmarks.clients NAME URL CA_FILE COMPUTE`` prints a line of JSON: CPU and wall seconds from READY to the
last event, and how many events it saw. ``COMPUTE`` is a number of threads of pure Python to run beside it.
"""

import json
import ssl
import sys
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
            import os

            os._exit(0)

        asyncio.run(main())

    return run


CLIENTS: dict[str, Callable[[str, ssl.SSLContext | None], None]] = {
    "crux_sync, nothing": crux("nothing"),
    "crux_sync, messages": crux("messages"),
    "crux_sync, typed": crux("typed"),
    "crux_sync, everything": crux("all"),
    "by hand": by_hand,
    "discord.py, gateway": discord_py(whole=False),
    "discord.py, whole": discord_py(whole=True),
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
