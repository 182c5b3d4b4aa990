"""A legacy pool: threads that know nothing of Discord read a plain queue.Queue."""

import os
import threading

from crux_sync import CLOSED, Gateway

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")

gateway = Gateway(api_url=API)
jobs = gateway.subscribe("TYPING_START").queue


def work():
    while (event := jobs.get()) is not CLOSED:
        print(f"{threading.current_thread().name}: somebody types in channel {event.data['channel_id']}", flush=True)
        jobs.task_done()


pool = [threading.Thread(target=work, name=f"pool-{number}") for number in range(4)]

if __name__ == "__main__":
    for thread in pool:
        thread.start()
    gateway.run()
    for thread in pool:
        thread.join()
