"""A bot that shows the time as its status: a thread of your own sends commands, ``join`` waits for the end."""

import os
import threading
import time

from crux_sync import Activity, Gateway, GatewayClosed

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")
EVERY = float(os.environ.get("CLOCK_SECONDS", "60"))
CUSTOM = 4

gateway = Gateway(api_url=API)
ended = threading.Event()


def tick():
    """Until the gateway closes. A faster clock would be slowed: Discord takes five presences in 20 s."""
    try:
        while not ended.is_set():
            gateway.update_presence(activities=[Activity(type=CUSTOM, state=time.strftime("it is %H:%M:%S"))])
            ended.wait(EVERY - time.time() % EVERY)
    except GatewayClosed:
        pass


@gateway.once("SHARD_READY")
def ready(event):
    threading.Thread(target=tick, name="clock").start()


if __name__ == "__main__":
    try:
        gateway.run()
    finally:
        ended.set()
