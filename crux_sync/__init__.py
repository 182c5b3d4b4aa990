"""The Discord gateway for threads."""

from .errors import *  # noqa: F403
from .intents import Intents
from .version import __version__

__all__ = ["Intents", "__version__"]
