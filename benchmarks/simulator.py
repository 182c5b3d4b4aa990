"""What the simulator carries: ``python -m benchmarks.simulator [--connections 200] [--rate 20000] [--seconds 5]``.

The clients are plain sockets that read and throw away. Exit status 0 only if the rate was kept up.
"""

import argparse
import json
import sys
import threading
import time

import websocket

from crux_sync import Intents
from crux_sync.simulator import Simulator


def connect(discord: Simulator, shard_id: int, count: int) -> websocket.WebSocket:
    client = websocket.create_connection(f"{discord.url}/?v=10&encoding=json&compress=zlib-stream", timeout=30)
    properties = {"os": "x", "browser": "x", "device": "x"}
    data = {"token": "test", "intents": int(Intents.all()), "properties": properties, "shard": [shard_id, count]}
    client.send(json.dumps({"op": 2, "d": data}))
    return client


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--rate", type=float, default=20_000.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    count, received, stop = options.connections, [0], threading.Event()
    with Simulator(shards=count, max_concurrency=count) as discord:
        clients = [connect(discord, shard_id, count) for shard_id in range(count)]
        discord.wait_ready(count, timeout=30)

        def drain() -> None:
            import selectors

            selector = selectors.DefaultSelector()
            for client in clients:
                selector.register(client.sock, selectors.EVENT_READ, client.sock)
            while not stop.is_set():
                for key, _ in selector.select(0.1):
                    received[0] += len(key.data.recv(1 << 18))

        reader = threading.Thread(target=drain)
        reader.start()
        started, cpu = time.monotonic(), time.process_time()
        traffic = discord.traffic(options.rate)
        threading.Event().wait(options.seconds)
        sent = traffic.stop()
        elapsed, cpu = time.monotonic() - started, time.process_time() - cpu
        stop.set()
        reader.join()
        for client in clients:
            client.close()
    print(
        f"simulator: {sent / elapsed:.0f} events/s over {count} connections for {elapsed:.1f} s, {cpu / elapsed:.0%} "
        f"of a core, {received[0] / 1e6:.0f} MB received, {len(discord.violations)} rules broken"
    )
    return 0 if sent / elapsed >= 0.97 * options.rate else 1


if __name__ == "__main__":
    sys.exit(main())
