"""Past one machine: gateways share identifies, sessions and shards over Redis; events go to streams, and to workers.

``ClusterGateway`` runs some of a bot's shards under leases and publishes what they receive; ``Worker`` handles it. Any
number of each, on any machines. Needs the extra ``redis``.
"""

from .limiter import RedisIdentifyLimiter
from .node import ClusterGateway
from .partitions import ClusterEvent
from .poison import Poison, Poisoned
from .store import RedisSessionStore
from .worker import Worker

__all__ = [
    "ClusterEvent",
    "ClusterGateway",
    "Poison",
    "Poisoned",
    "RedisIdentifyLimiter",
    "RedisSessionStore",
    "Worker",
]
