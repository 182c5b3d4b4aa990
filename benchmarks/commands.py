"""Ten threads send as fast as they are allowed, for real: ``python -m benchmarks.commands [--seconds 70]``.

Prints how many commands went out, how many the budget allows, the latest heartbeat, and rules broken. Exit status 0
only if no rule was broken, no heartbeat was later than 250 ms, and the commands are within 3 % of the budget.
"""

import argparse
import sys
import threading
import time

from crux_sync import CommandTimeout, Gateway, Intents
from crux_sync.limits import GUARD, SEND_PERIOD, SendBudget
from crux_sync.simulator import Simulator

THREADS = 10
LATEST_BEAT = 0.25


def allowed(seconds: float, interval: float) -> int:
    """Commands that fit: the budget at once, and again each period."""
    return SendBudget.commands_per_period(interval) * (1 + int(seconds / (SEND_PERIOD + GUARD)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=70.0)
    options = parser.parse_args()
    with Simulator() as discord:
        interval = discord.settings.heartbeat_interval
        gateway = Gateway("test", api_url=discord.api_url, intents=Intents.all())
        sent = threading.Semaphore(0)
        with gateway:
            gateway.wait_for("SHARD_READY", timeout=10)
            guild = next(iter(discord.world.guilds.values()))
            end = time.monotonic() + options.seconds

            def hammer(number: int) -> None:
                calls = (
                    lambda left: gateway.request_channel_info(guild.id, ["status"], timeout=left),
                    lambda left: gateway.request_soundboard_sounds([guild.id], timeout=left),
                    lambda left: gateway.update_voice_state(guild.id, None, timeout=left),
                    lambda left: gateway.send({"op": 31, "d": {"guild_ids": [guild.id]}}, timeout=left),
                )
                while (left := end - time.monotonic()) > 0:
                    try:
                        calls[number % len(calls)](left)
                    except CommandTimeout:
                        return
                    sent.release()

            threads = [threading.Thread(target=hammer, args=(number,)) for number in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            latest = gateway.stats().worst_timer_delay
        count, possible = sent._value, allowed(options.seconds, interval)
        print(
            f"commands: {count} sent in {options.seconds:g} s by {THREADS} threads, {possible} allowed; "
            f"latest heartbeat {latest * 1000:.1f} ms; {len(discord.violations)} rules broken"
        )
        good = not discord.violations and latest < LATEST_BEAT and abs(count - possible) <= 0.03 * possible
        return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
