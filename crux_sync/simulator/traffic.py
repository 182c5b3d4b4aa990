"""Traffic as a bot sees it: mostly presences (discord-api-docs#1307 counted 93 % of a bot's events)."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .core import encode
from .payloads import Maker
from .world import World

#: Share of each event. Presences lead, then messages and the typing before them; sizes follow from the payloads:
#: some 690 bytes of JSON on average, 160 compressed.
DEFAULT_MIX: Mapping[str, float] = {
    "PRESENCE_UPDATE": 0.60,
    "MESSAGE_CREATE": 0.20,
    "TYPING_START": 0.15,
    "GUILD_MEMBER_UPDATE": 0.05,
}

#: Name, data, and its JSON.
Prepared = tuple[str, Any, bytes]

#: Events made in advance and sent in turn: making them one by one would cost more than sending them.
POOL = 1024

#: How often the traffic thread sends what is due, seconds.
STEP = 0.01


class Traffic:
    """A stream of events at a rate. ``stop`` ends it; ``sent`` counts them. Any thread."""

    def __init__(
        self, world: World, rate: float, mix: Mapping[str, float], dispatch: Callable[[list[Prepared]], None]
    ) -> None:
        if rate <= 0:
            raise ValueError(f"rate={rate!r} must be more than 0 events a second")
        self.rate = rate
        self.sent = 0
        source = random.Random(world.seed)
        maker = Maker(world, source)
        names = source.choices(list(mix), weights=list(mix.values()), k=POOL)
        made = [(name, maker.make(name)) for name in names]
        self._pool = itertools.cycle([(name, data, encode(data)) for name, data in made])
        self._dispatch = dispatch
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crux-sim-traffic", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        started = time.monotonic()
        while not self._stopped.wait(STEP):
            due = int((time.monotonic() - started) * self.rate) - self.sent
            if due > 0:
                self._dispatch(list(itertools.islice(self._pool, due)))
                self.sent += due

    def stop(self) -> int:
        """End the stream; how many events it sent."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        return self.sent
