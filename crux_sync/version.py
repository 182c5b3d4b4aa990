"""The version, in one place: packaging, the User-Agent and ``crux_sync.__version__`` read it here."""

__version__ = "0.1.0"
