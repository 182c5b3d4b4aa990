"""Partitioned workers: the events of one guild always meet the same worker, in order."""

import os
import threading

from crux_sync import Gateway, PartitionDispatcher

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")

PARTITIONS = 3

gateway = Gateway(api_url=API, dispatcher=PartitionDispatcher(PARTITIONS))


def work(partition, subscription):
    guilds = set()
    for event in subscription:
        if event.guild_id is not None and event.guild_id not in guilds:
            guilds.add(event.guild_id)
            print(f"worker {partition} has guild {event.guild_id}", flush=True)


if __name__ == "__main__":
    for partition in range(PARTITIONS):
        subscription = gateway.subscribe(partition=partition)
        threading.Thread(target=work, args=(partition, subscription)).start()
    gateway.run()
