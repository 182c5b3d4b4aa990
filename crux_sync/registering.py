"""Registering functions for events: ``on``, ``once``, ``on_error``. Gateways do it, and workers of a cluster."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

from .callbacks import Callback, ErrorHandler, Registry, check_callable, check_names
from .errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., object])


class Registering:
    """What has callbacks. Any thread may call any method, at any time."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def on(self, *names: str, type: Any = None) -> Callable[[F], F]:
        """Decorate a function to be called with each event of these names; without names, with every event.

        ``type``: a msgspec Struct, dataclass or TypedDict to decode ``event.data`` into; a payload that does not fit
        goes to ``on_error``. The function is returned unchanged. Callbacks run on worker threads, never on a shard's.
        Raises ConfigurationError (a coroutine function, no event name); warns of names and intents that look wrong.
        """
        return self._register(names, type, once=False)

    def once(self, *names: str, type: Any = None) -> Callable[[F], F]:
        """As ``on``, for the first such event only. Raises ConfigurationError."""
        return self._register(names, type, once=True)

    def _register(self, names: tuple[str, ...], type: Any, *, once: bool) -> Callable[[F], F]:
        wanted = check_names(names)
        self._warn_of_names(wanted or ())

        def decorate(function: F) -> F:
            self._registry.add(Callback(function, wanted, type, once))
            return function

        return decorate

    def add_callbacks(self, group: Any) -> None:
        """Register the methods of ``group`` that ``crux_sync.listens`` marked: callbacks grouped in a class.

        Any thread. Raises ConfigurationError when there is none.
        """
        found = 0
        for attribute in dir(group):
            for names, type, once in getattr(getattr(group, attribute), "__crux_sync__", ()):
                self._register(names, type, once=once)(getattr(group, attribute))
                found += 1
        if not found:
            raise ConfigurationError(f"{group!r} has no method marked with crux_sync.listens(...)")

    def remove(self, function: Callable[..., object]) -> bool:
        """Stop calling ``function``; whether it was registered. A call that is under way goes on. Any thread."""
        return self._registry.remove(function)

    @overload
    def on_error(self, function: F) -> F: ...
    @overload
    def on_error(self) -> Callable[[F], F]: ...
    def on_error(self, function: Any = None) -> Any:
        """Decorate ``(error, event, callback)`` to be told what callbacks, selectors and hashes raise.

        ``event`` is None where none was at hand. The function runs on the thread that met the error. Without one,
        errors are logged with their traceback. Raises ConfigurationError for what cannot be called.
        """
        if function is None:
            return self.on_error
        check_callable(function)
        handler: ErrorHandler = function
        self._registry.error_handlers = (*self._registry.error_handlers, handler)
        return function

    def _warn_of_names(self, names: Any) -> None:
        """Advice on event names, for those who know the intents."""
