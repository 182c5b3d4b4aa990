"""The throw-away authority of a simulator with TLS, in a file for as long as the command runs."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..simulator import Simulator


@contextmanager
def announced_authority(discord: "Simulator") -> Iterator[None]:
    """With TLS: print the name of a PEM file for ``--ca-file``, and remove the file at the end, however that comes."""
    if discord.ssl_context is None:
        yield
        return
    handle, name = tempfile.mkstemp(prefix="crux-sync-", suffix=".pem")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(discord.authority_pem)
        print(name, flush=True)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
