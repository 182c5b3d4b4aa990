"""What the processes of a cluster have in common: to wait for their end, to run until a signal, to be a context."""

import logging
import threading
from typing import Self

from ..signals import Interrupted, closing_signals

logger = logging.getLogger(__name__)


class Process:
    """The life of a ClusterGateway and of a Worker, which bring ``start`` and ``close``."""

    def __init__(self) -> None:
        self._stopping, self._stopped = threading.Event(), threading.Event()
        #: What was fatal.
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Begin, and return at once. Any thread."""
        raise NotImplementedError

    def close(self, timeout: float = 10.0) -> None:
        """Leave, within ``timeout`` seconds. Any thread. Idempotent."""
        raise NotImplementedError

    def join(self, timeout: float | None = None) -> None:
        """Wait until it is closed. Any thread.

        Raises what was fatal, or TimeoutError after ``timeout`` seconds; None: no limit.
        """
        if not self._stopped.wait(timeout):
            raise TimeoutError(f"still running after {timeout:g} s")
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        """Start, block until it ends, close. Ctrl-C and SIGTERM close it and return; fatal errors are raised.

        Signals are handled only when called on the main thread; the handlers of before are restored. Raises what
        ``start`` and ``join`` raise.
        """
        with closing_signals() as interrupted:
            try:
                self.start()
                self.join()
            except Interrupted:
                logger.info("closing on %s", interrupted())
            finally:
                self.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
