"""A progress bar while shards come up, on a terminal and with rich; else nothing."""

import sys
import threading
import time

from ..gateway import Gateway

#: How often the bar is drawn, seconds.
STEP = 0.05


def shard_progress(gateway: Gateway, timeout: float) -> bool:
    """Wait until every shard is ready, showing how many are; whether they all became so within ``timeout`` seconds."""
    shards = list(gateway.shards.values())
    deadline = time.monotonic() + timeout

    def ready() -> int:
        return sum(shard.state == "ready" for shard in shards)

    def waiting() -> bool:
        threading.Event().wait(STEP)
        return ready() < len(shards) and time.monotonic() < deadline

    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        while waiting():
            pass
        return ready() == len(shards)
    console = Console(file=sys.stderr)
    columns = (TextColumn("shards ready"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("shards", total=len(shards))
        while waiting():
            progress.update(task, completed=ready())
        progress.update(task, completed=ready())
    return ready() == len(shards)
