"""Long runs, each a command of its own: ``python -m benchmarks.chaos``, ``.kill``, ``.commands``, ``.speed``."""
