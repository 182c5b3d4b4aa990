"""``python -m crux_sync`` is ``crux-sync``."""

import sys

from .cli import main

sys.exit(main())
