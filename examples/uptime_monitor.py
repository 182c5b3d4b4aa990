"""How much of the time is each shard up? Every change is a line; Ctrl-C ends it with the shares."""

import os
import time
from collections import Counter

from crux_sync import Gateway, Intents

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")

gateway = Gateway(api_url=API, intents=Intents.none())
started = time.monotonic()
up_since = {}  # shard id to when it came up; those that are away are not in it
up_before = Counter()  # shard id to seconds


@gateway.on("SHARD_READY", "SHARD_RESUMED")
def up(event):
    up_since[event.shard_id] = time.monotonic()
    print(f"shard {event.shard_id} is up", flush=True)


@gateway.on("SHARD_DISCONNECTED")
def down(event):
    now = time.monotonic()
    up_before[event.shard_id] += now - up_since.pop(event.shard_id, now)
    then = "it resumes" if event.data["will_resume"] else "it starts anew"
    print(f"shard {event.shard_id} is down: {event.data['reason']}; {then}", flush=True)


def report():
    now = time.monotonic()
    for shard in gateway.stats().shards.values():
        seconds = up_before[shard.id] + now - up_since.get(shard.id, now)
        share = 100 * seconds / (now - started)
        print(f"shard {shard.id} was up {share:.1f} % of the time, on {shard.connects} connections")


if __name__ == "__main__":
    gateway.run()
    report()
