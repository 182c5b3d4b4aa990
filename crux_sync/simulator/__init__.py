"""An offline Discord on loopback: gateway and REST on one port, rules enforced, faults on demand.

::

    with Simulator(token="test", shards=2) as discord:
        gateway = Gateway("test", api_url=discord.api_url)

It needs the extra ``crux_sync[simulator]``.
"""

try:
    import websockets  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError("the simulator needs websockets: pip install 'crux_sync[simulator]'") from error

from .channels import RestRequest
from .core import Settings
from .facade import Simulator
from .replay import Replay
from .sessions import ServerSession
from .traffic import DEFAULT_MIX, Traffic

__all__ = ["DEFAULT_MIX", "Replay", "RestRequest", "ServerSession", "Settings", "Simulator", "Traffic"]
