"""What the tests of the cluster share."""

import threading
import time

PARTITIONS = 4
GUILD = "41771983423143937"


def until(condition, timeout: float = 40.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        threading.Event().wait(0.02)
