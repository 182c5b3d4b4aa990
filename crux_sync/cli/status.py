"""The live table of ``listen --status``: what each shard is doing, drawn anew a few times a second."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..gateway import Gateway
from ..stats import ShardStats, Stats
from ..subscription import Subscription
from .progress import Bar, Startup, duration

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

#: Drawings a second.
FRAMES = 4

#: Latencies in the small line of each shard.
HISTORY = 12

#: A rate follows the events of about so many seconds.
RATE_MEMORY = 2.0

#: Lines around the rows: the summary, the heading, the bar, a note, and the cursor's.
SURROUNDINGS = 6

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-=*#"

COLOURS = {
    "ready": "green",
    "waiting": "yellow",
    "connecting": "yellow",
    "identifying": "cyan",
    "resuming": "cyan",
    "stopped": "bright_black",
    "failed": "bold red",
}


@dataclass
class Trace:
    """What the table remembers of one shard."""

    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    events: int = 0
    rate: float = 0.0


class StatusTable:
    """Reads ``gateway.stats()`` whenever it is drawn. Nothing is counted for it while nobody looks."""

    def __init__(
        self, gateway: Gateway, events: Subscription, startup: Startup, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._gateway = gateway
        self._events = events
        self._startup = startup
        self._bar = Bar(startup)
        self._clock = clock
        self._began = self._looked = clock()
        self._traces: dict[int, Trace] = {}

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        stats = self._gateway.stats()
        self._look(stats)
        waiting = self._events.waiting_by_shard()
        ready, total, _ = self._startup.look()
        yield Text(self.summary(stats), style="bold", no_wrap=True, overflow="ellipsis")
        most = max((options.height or console.height) - SURROUNDINGS, 1)
        shown = choose(stats.shards.values(), most)
        yield self._table(shown, waiting, ASCII_BLOCKS if options.ascii_only else BLOCKS)
        if len(shown) < total:
            yield Text(f"and {total - len(shown)} more", style="bright_black")
        if ready < total:
            yield self._bar

    def _look(self, stats: Stats) -> None:
        now = self._clock()
        passed, self._looked = now - self._looked, now
        for shard in stats.shards.values():
            trace = self._traces.setdefault(shard.id, Trace())
            if shard.latency is not None and (not trace.latencies or trace.latencies[-1] != shard.latency):
                trace.latencies.append(shard.latency)
            if passed > 0:
                recent = max(shard.events - trace.events, 0) / passed
                trace.rate += (recent - trace.rate) * (1 - math.exp(-passed / RATE_MEMORY))
            trace.events = shard.events

    def summary(self, stats: Stats) -> str:
        """All shards in one line."""
        shards = stats.shards.values()
        parts = [
            f"{sum(shard.state == 'ready' for shard in shards)} of {len(shards)} shards ready",
            f"{sum(self._traces[shard.id].rate for shard in shards if shard.id in self._traces):,.0f} events/s",
            f"queue {self._events.waiting:,}",
            f"{sum(reconnects(shard) for shard in shards)} reconnects",
            duration(math.floor(self._clock() - self._began)),
        ]
        if stats.identifies_left is not None:
            parts.insert(-1, f"{stats.identifies_left:,} identifies left")
        return " · ".join(parts)

    def _table(self, shards: Iterable[ShardStats], waiting: Mapping[int, int], blocks: str) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
        # As wide as what may come, so that nothing moves to and fro.
        widths = {"shard": 5, "state": 11, "latency": 8, "": HISTORY, "events/s": 8, "queue": 6, "reconnects": 10}
        for heading, width in widths.items():
            left = heading in ("state", "")
            table.add_column(heading, justify="left" if left else "right", no_wrap=True, min_width=width)
        for shard in shards:
            trace = self._traces[shard.id]
            latency = "" if shard.latency is None else f"{shard.latency * 1000:.0f} ms"
            table.add_row(
                str(shard.id),
                Text(shard.state, style=COLOURS.get(shard.state, "")),
                latency,
                Text(sparkline(trace.latencies, blocks), style="cyan"),
                f"{trace.rate:,.1f}",
                Text(f"{waiting.get(shard.id, 0):,}{' full' if shard.blocked else ''}"),
                f"{reconnects(shard)}",
            )
        return table


def reconnects(shard: ShardStats) -> int:
    """Connections after the first."""
    return max(shard.connects - 1, 0)


def choose(shards: Iterable[ShardStats], most: int) -> list[ShardStats]:
    """The shards there is room for, by number; where there is not, those that need looking at come first."""
    everything = sorted(shards, key=lambda shard: shard.id)
    if len(everything) <= most:
        return everything
    return sorted(everything, key=lambda shard: (shard.state == "ready", not shard.blocked, -(shard.latency or 0)))[
        :most
    ]


def sparkline(values: Iterable[float], blocks: str = BLOCKS) -> str:
    """A line as small as its text: from nothing to the highest value."""
    numbers = list(values)
    top = max(numbers, default=0.0)
    if top <= 0:
        return blocks[0] * len(numbers)
    return "".join(blocks[min(int(number / top * len(blocks)), len(blocks) - 1)] for number in numbers)
