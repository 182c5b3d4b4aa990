"""The worker of the example: it counts messages by guild, and prints each."""

import os

from crux_sync.cluster import Worker

worker = Worker(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"), name="example")


@worker.on("MESSAGE_CREATE")
def message(event):
    print(f"worker {os.getpid()}: shard {event.shard_id}, guild {event.data.get('guild_id')}", flush=True)


if __name__ == "__main__":
    worker.run()
