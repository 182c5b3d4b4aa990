"""A recording on its way to the clients of a simulator."""

import threading
import time
from collections.abc import Callable
from typing import Any

from ..intents import SHARD_EVENTS
from ..recording import Recorded, Recording

#: Name, data, its JSON, and the recorded shard as (id, count).
Replayed = tuple[str, Any, bytes, tuple[int, int]]

#: Events handed over together when there is nothing to wait for.
TOGETHER = 256

#: Of a session's own life, which the simulator tells itself.
NOT_REPLAYED = SHARD_EVENTS | {"READY", "RESUMED"}

#: How often a replay looks whether clients have come, seconds.
LOOK_EVERY = 0.2

#: How often it looks whether slow ones have caught up, seconds.
CATCH_UP = 0.01


class Replay:
    """A replay that is under way: ``wait`` for its end, or ``stop`` it; ``sent`` counts its events. Any thread."""

    def __init__(
        self,
        recording: Recording,
        speed: float,
        clients_are_ready: Callable[[], bool],
        has_room: Callable[[], bool],
        dispatch: Callable[[list[Replayed]], None],
    ) -> None:
        self.recording = recording
        self.speed = speed
        #: Events dispatched so far.
        self.sent = 0
        #: What ended it early: a recording that could not be read on.
        self.failure: Exception | None = None
        #: Waits for them, a little at a time.
        self._clients_are_ready = clients_are_ready
        self._has_room = has_room
        self._dispatch = dispatch
        self._stopped = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crux-sim-replay", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "done" if self.done else "under way"
        return f"<Replay of {self.recording.path.name}: {self.sent} events, {state}>"

    @property
    def done(self) -> bool:
        """Whether it is through, or stopped."""
        return self._done.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most ``timeout`` seconds until every event is dispatched; whether it came to that.

        Raises RecordingError, OSError.
        """
        self._done.wait(timeout)
        if self.failure is not None:
            raise self.failure
        return self.done and not self._stopped.is_set()

    def stop(self) -> int:
        """End it; how many events it sent."""
        if not self.done:
            self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        return self.sent

    def _run(self) -> None:
        try:
            while not self._clients_are_ready():
                if self._stopped.is_set():
                    return
            self._play()
        except Exception as error:  # told to whoever waits
            self.failure = error
        finally:
            self._done.set()

    def _play(self) -> None:
        started = time.monotonic()
        first: float | None = None
        due: list[Replayed] = []
        for event in self.recording:
            if event.type in NOT_REPLAYED:
                continue
            if self.speed and event.time is not None:
                first = event.time if first is None else first
                delay = started + (event.time - first) / self.speed - time.monotonic()
                if delay > 0:
                    self._send(due)
                    self._stopped.wait(delay)
            due.append(self._prepared(event))
            if len(due) >= TOGETHER:
                self._send(due)
            if self._stopped.is_set():
                return
        self._send(due)

    def _prepared(self, event: Recorded) -> Replayed:
        return event.type, event.data, event.raw, (event.shard_id, self.recording.shard_count)

    def _send(self, due: list[Replayed]) -> None:
        """Hand over what is due, and empty the list; a client that lags behind is waited for."""
        while not self._has_room() and not self._stopped.wait(CATCH_UP):
            pass
        if due and not self._stopped.is_set():
            self._dispatch(due)
            self.sent += len(due)
            due.clear()
