"""A consumer process is killed at random, SIGKILL and SIGTERM in turn, while numbered events flow.

``python -m benchmarks.kill [--times 50] [--seed 1] [--rate 2000]``: exit status 0 only if every event was handled at
least once.
"""

import argparse
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading

from crux_sync.simulator import Simulator

#: Writes the number of each event it has handled, in one write a line, to a file that outlives it.
CONSUMER = """
import os, sys
from crux_sync import Gateway, Intents
api_url, store, output = sys.argv[1:]
handled = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
gateway = Gateway("test", api_url=api_url, intents=Intents.all(), session_store=store)
@gateway.on()
def handle(event):
    if event.sequence is not None:
        os.write(handled, b"%d\\n" % event.sequence)
gateway.run()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2000.0)
    options = parser.parse_args()
    rng, pause = random.Random(options.seed), threading.Event()
    with tempfile.TemporaryDirectory() as place, Simulator(log_count=10**7, log_age=3600) as discord:
        handled = pathlib.Path(place, "handled")
        command = [sys.executable, "-c", CONSUMER, discord.api_url, str(pathlib.Path(place, "store")), str(handled)]
        traffic = None
        for number in range(options.times):
            with subprocess.Popen(command) as consumer:
                discord.wait_ready(timeout=30)
                traffic = traffic or discord.traffic(options.rate)
                pause.wait(rng.uniform(0.0, 1.5))
                consumer.send_signal((signal.SIGKILL, signal.SIGTERM)[number % 2])
        assert traffic is not None
        traffic.stop()

        def lines() -> list[int]:
            return [int(line) for line in handled.read_text().split()]

        with subprocess.Popen(command) as consumer:
            for _ in range(600):
                if len(set(lines())) >= discord.sent:
                    break
                pause.wait(0.1)
            consumer.terminate()
        numbers = lines()
        lost = discord.sent - len(set(numbers))
        print(
            f"kill: {options.times} kills, {discord.sent} sent, {len(numbers)} handled, "
            f"{len(numbers) - len(set(numbers))} again, {lost} lost, {len(discord.identifies)} identifies"
        )
        return 1 if lost or discord.violations else 0


if __name__ == "__main__":
    sys.exit(main())
