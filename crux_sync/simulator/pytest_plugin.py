"""pytest plugin: the fixture ``discord``, an offline Discord for one test.

Options by marker: ``@pytest.mark.discord(shards=2, tls=True)`` takes what ``Simulator`` takes. At teardown the test
fails if the client broke a rule of the gateway, unless the marker says ``allow_violations=True``.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .facade import Simulator


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "discord(**options): options of the Simulator behind the fixture; allow_violations=True"
    )


@pytest.fixture
def discord(request: pytest.FixtureRequest) -> "Iterator[Simulator]":
    """An offline Discord (``crux_sync.simulator.Simulator``) for this test."""
    from crux_sync.simulator import Simulator

    options: dict[str, object] = {}
    for marker in reversed(list(request.node.iter_markers("discord"))):  # the nearest one wins
        options |= marker.kwargs
    allowed = options.pop("allow_violations", False)
    with Simulator(**options) as simulator:  # type: ignore[arg-type]
        yield simulator
    if simulator.violations and not allowed:
        pytest.fail("the client broke rules of the gateway: " + ", ".join(simulator.violations))
