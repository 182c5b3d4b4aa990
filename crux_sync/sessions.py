"""Session stores: what lets a restart resume (protocol, section 6.8). No store ever holds the token.

A store keeps, for each shard, the session id, the resume url and the sequence up to which every event was handled.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from .errors import ConfigurationError

logger = logging.getLogger(__name__)

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

VERSION = 1


class StoredSession(NamedTuple):
    """One shard's session."""

    session_id: str
    resume_url: str | None
    #: Every event up to this one was handled; a resume asks for what follows.
    sequence: int
    #: READY does not come again after a resume: the bot's own ids.
    user_id: str | None = None
    application_id: str | None = None


class Identity(NamedTuple):
    """What a session belongs to: it is of no use to another token, shard count or intents."""

    #: A digest: it tells tokens apart and does not give them away.
    token_digest: str
    shard_count: int
    intents: int

    @classmethod
    def of(cls, token: str, shard_count: int, intents: int) -> "Identity":
        """The identity of a bot with this token, whose digest is kept, and not the token."""
        digest = hashlib.blake2b(token.encode(), digest_size=12, person=b"crux_sync").hexdigest()
        return cls(digest, shard_count, intents)


@runtime_checkable
class SessionStore(Protocol):
    """Implement this to keep sessions elsewhere. Called on one thread at a time, with no lock held."""

    def open(self, identity: Identity) -> Mapping[int, StoredSession]:
        """The stored sessions of this identity, by shard id. Raises ConfigurationError when in use elsewhere."""

    def save(self, sessions: Mapping[int, StoredSession | None]) -> None:
        """Keep these; None: the session of that shard is over. Shards that are not named stay as they are."""

    def close(self) -> None:
        """No more saves."""


class MemorySessionStore:
    """Keeps sessions as long as the process lives: for a gateway that is closed and made anew in it.

    For one gateway at a time, which calls it on one thread at a time.
    """

    def __init__(self) -> None:
        self._identity: Identity | None = None
        self._sessions: dict[int, StoredSession] = {}

    def open(self, identity: Identity) -> Mapping[int, StoredSession]:
        """The sessions of this identity; those of another are forgotten."""
        if identity != self._identity:
            self._identity, self._sessions = identity, {}
        return dict(self._sessions)

    def save(self, sessions: Mapping[int, StoredSession | None]) -> None:
        """Keep these; None: the session of that shard is over."""
        self._sessions = merged(self._sessions, sessions)

    def close(self) -> None:
        """Nothing to let go of: the sessions stay for the next gateway."""


class FileSessionStore:
    """One JSON file: written whole and swapped in, readable by its owner alone, locked while in use.

    For one gateway, which calls it on one thread at a time. The file has session ids, and of the token only a digest.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._identity: Identity | None = None
        self._sessions: dict[int, StoredSession] = {}
        #: Open on the file as it is now, for the lock.
        self._held: int | None = None

    def __repr__(self) -> str:
        return f"FileSessionStore({str(self.path)!r})"

    def open(self, identity: Identity) -> Mapping[int, StoredSession]:
        """Lock and read the file. What is damaged or belongs to another identity is not used, and said so.

        Raises ConfigurationError when the file cannot be opened or another gateway has it.
        """
        self._lock()
        self._identity = identity
        self._sessions = self._read(identity)
        return dict(self._sessions)

    def save(self, sessions: Mapping[int, StoredSession | None]) -> None:
        """Write a new file beside the old one and swap them: a crash leaves one or the other, whole."""
        self._sessions = merged(self._sessions, sessions)
        assert self._identity is not None
        document = {
            "about": "crux_sync sessions: written by the program while it runs; delete the file to start afresh",
            "version": VERSION,
            **self._identity._asdict(),
            "sessions": {str(shard_id): one._asdict() for shard_id, one in sorted(self._sessions.items())},
        }
        descriptor, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            os.write(descriptor, json.dumps(document, indent=2).encode() + b"\n")
            os.fsync(descriptor)
            lock(descriptor)  # before it takes the place of the one that is locked now
            os.replace(name, self.path)
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        self._release()
        self._held = descriptor

    def close(self) -> None:
        """Let go of the lock. The file stays."""
        self._release()

    def _lock(self) -> None:
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise ConfigurationError(f"session_store={str(self.path)!r} cannot be opened: {error}") from error
            if not lock(descriptor):
                os.close(descriptor)
                raise ConfigurationError(f"session_store={str(self.path)!r} is in use by another gateway")
            with contextlib.suppress(OSError):
                if os.fstat(descriptor).st_ino == os.stat(self.path).st_ino:
                    self._held = descriptor
                    return
            os.close(descriptor)  # swapped between opening and locking: again

    def _release(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _read(self, identity: Identity) -> dict[int, StoredSession]:
        text = self.path.read_bytes()
        if not text:
            return {}
        try:
            document = json.loads(text)
            found = Identity(document["token_digest"], document["shard_count"], document["intents"])
            sessions = {int(shard_id): read_session(one) for shard_id, one in document["sessions"].items()}
            if document["version"] != VERSION:
                raise ValueError(f"version {document['version']!r}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.warning("%s is damaged (%r): starting with new sessions", self.path, error)
            return {}
        if found != identity:
            logger.warning("%s is of another token, shard count or intents: starting with new sessions", self.path)
            return {}
        return sessions


def read_session(fields: dict[str, Any]) -> StoredSession:
    """Raises TypeError, ValueError."""
    session = StoredSession(**fields)
    sequence = session.sequence
    if not isinstance(session.session_id, str) or not isinstance(sequence, int) or not 0 <= sequence < 1 << 63:
        raise ValueError("session_id or sequence")
    for text in (session.resume_url, session.user_id, session.application_id):
        if not isinstance(text, str | None):
            raise ValueError("resume_url, user_id or application_id")
    return session


def merged(known: Mapping[int, StoredSession], changes: Mapping[int, StoredSession | None]) -> dict[int, StoredSession]:
    together = {**known, **changes}
    return {shard_id: session for shard_id, session in together.items() if session is not None}


def lock(descriptor: int) -> bool:
    """Whether the file is now locked by this process alone."""
    if fcntl is None:  # pragma: no cover - Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def create_store(choice: Any) -> SessionStore | None:
    """The ``session_store=`` option: None, a path, or a SessionStore. Raises ConfigurationError."""
    if choice is None:
        return None
    if isinstance(choice, str | os.PathLike):
        path = Path(choice)
        if path.is_dir() or not path.parent.is_dir():
            raise ConfigurationError(f"session_store={str(choice)!r} must be a file in a directory that exists")
        return FileSessionStore(path)
    if isinstance(choice, SessionStore) and not isinstance(choice, type):
        return choice
    raise ConfigurationError(f"session_store={choice!r} must be a path or have open, save and close")
