"""The Discord gateway for threads.

::

    from crux_sync import Gateway

    gateway = Gateway("token")

    @gateway.on("MESSAGE_CREATE")
    def on_message(event):
        print(event.data["content"])

    gateway.run()
"""

from .callbacks import listens
from .dispatchers import BroadcastDispatcher, DemandDispatcher, Dispatcher, PartitionDispatcher
from .errors import (
    AuthenticationFailed,
    CommandTimeout,
    ConfigurationError,
    CruxError,
    CruxWarning,
    DisallowedIntents,
    DiscoveryError,
    FatalCloseError,
    GatewayClosed,
    InvalidAPIVersion,
    InvalidIntents,
    InvalidShard,
    PayloadTooLarge,
    ProtocolError,
    SessionStartLimitReached,
    ShardingRequired,
)
from .events import Event
from .gateway import Gateway
from .intents import Intents
from .presence import Activity, Presence
from .queues import CLOSED
from .shard import Shard
from .subscription import Subscription
from .version import __version__

__all__ = [
    "CLOSED",
    "Activity",
    "AuthenticationFailed",
    "BroadcastDispatcher",
    "CommandTimeout",
    "ConfigurationError",
    "CruxError",
    "CruxWarning",
    "DemandDispatcher",
    "DisallowedIntents",
    "DiscoveryError",
    "Dispatcher",
    "Event",
    "FatalCloseError",
    "Gateway",
    "GatewayClosed",
    "Intents",
    "InvalidAPIVersion",
    "InvalidIntents",
    "InvalidShard",
    "PartitionDispatcher",
    "PayloadTooLarge",
    "Presence",
    "ProtocolError",
    "SessionStartLimitReached",
    "Shard",
    "ShardingRequired",
    "Subscription",
    "__version__",
    "listens",
]
