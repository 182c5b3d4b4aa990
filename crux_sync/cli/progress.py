"""A progress bar while shards come up, on a terminal and with rich; else nothing."""

import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..gateway import Gateway
from ..limits import IDENTIFY_PERIOD

if TYPE_CHECKING:
    from rich.progress import Progress

#: How often the bar is drawn, seconds.
STEP = 0.05


class Startup:
    """How far the shards of a gateway are, and how long the rest will take by Discord's pace of identifies."""

    def __init__(self, gateway: Gateway, clock: Callable[[], float] = time.monotonic) -> None:
        self._gateway = gateway
        self._clock = clock
        self._ready = 0
        self._changed = clock()

    def look(self) -> tuple[int, int, float]:
        """Shards ready, shards in all, and seconds left."""
        shards = self._gateway.shards
        missing = [shard.id for shard in shards.values() if shard.state != "ready"]
        ready = len(shards) - len(missing)
        now = self._clock()
        if ready != self._ready:
            self._ready, self._changed = ready, now
        return ready, len(shards), self._left(missing, now - self._changed)

    def _left(self, missing: list[int], since: float) -> float:
        """Each bucket lets one identify pass in a period: the fullest decides."""
        if not missing:
            return 0.0
        concurrency = self._gateway.stats().identify_concurrency
        rounds = max(Counter(shard_id % concurrency for shard_id in missing).values())
        if not self._ready:  # the first of each bucket need not wait
            rounds -= 1
        return max(rounds * IDENTIFY_PERIOD - since, 0.0)


class Bar:
    """The bar, as something rich can draw."""

    def __init__(self, startup: Startup) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._startup = startup
        columns = (
            TextColumn("shards ready"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("[cyan]{task.fields[left]}"),
        )
        self._progress = Progress(*columns, auto_refresh=False)
        self._task = self._progress.add_task("shards", left="")

    def __rich__(self) -> "Progress":
        ready, total, left = self._startup.look()
        self._progress.update(self._task, completed=ready, total=total, left=f"{duration(left)} left")
        return self._progress


def duration(seconds: float) -> str:
    """``1:05`` or ``2:03:04``; never too little."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shard_progress(gateway: Gateway, timeout: float) -> bool:
    """Wait until every shard is ready, showing how many are; whether they all became so within ``timeout`` seconds."""
    startup = Startup(gateway)
    deadline = time.monotonic() + timeout

    def all_ready() -> bool:
        ready, total, _ = startup.look()
        return ready == total

    def wait() -> bool:
        while not all_ready() and time.monotonic() < deadline:
            threading.Event().wait(STEP)
        return all_ready()

    if not sys.stderr.isatty():
        return wait()
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        return wait()
    with Live(Bar(startup), console=Console(stderr=True), redirect_stdout=False):
        return wait()
