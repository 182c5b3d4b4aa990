"""Long runs, each a command of its own: ``python -m benchmarks.chaos``, ``benchmarks.commands``, ``benchmarks.speed``."""
