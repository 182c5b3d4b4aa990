"""Every public name says what it is: what is exported, and the public methods and properties of what is exported."""

import inspect
from enum import Enum

import pytest

import crux_sync
import crux_sync.cluster
import crux_sync.metrics
import crux_sync.simulator

MODULES = (crux_sync, crux_sync.simulator, crux_sync.metrics, crux_sync.cluster)

#: Values, not code: their documentation stands at the definition.
VALUES = {"__version__", "DEFAULT_MIX"}


def public_names() -> list[tuple[str, object]]:
    """(dotted name, object) of everything a user may name."""
    found = []
    for module in MODULES:
        for name in module.__all__:
            if name in VALUES:
                continue
            thing = getattr(module, name)
            found.append((f"{module.__name__}.{name}", thing if callable(thing) else type(thing)))
            if inspect.isclass(thing):
                found += [(f"{module.__name__}.{name}.{member}", one) for member, one in members(thing)]
    return found


def members(kind: type) -> list[tuple[str, object]]:
    """The public methods and properties of a class, also those it has from another class of the package."""
    found = []
    for name in sorted({name for one in kind.__mro__ for name in vars(one)}):  # dir() hides some of an enum's
        owner = next((one for one in kind.__mro__ if name in vars(one)), object)
        attribute = inspect.getattr_static(kind, name)
        plain = attribute.__func__ if isinstance(attribute, classmethod | staticmethod) else attribute
        if name.startswith("_") or not owner.__module__.startswith("crux_sync") or isinstance(attribute, Enum):
            continue
        if inspect.isfunction(plain) or isinstance(plain, property):
            found.append((name, plain))
    return found


def test_the_check_sees_what_is_there():
    names = [name for name, _ in public_names()]
    assert len(names) > 150
    for name in ("Gateway.on", "Gateway.update_presence", "Shard.latency", "Event.create", "Intents.all"):
        assert f"crux_sync.{name}" in names
    assert {"crux_sync.simulator.Simulator.drop", "crux_sync.metrics.instrument"} <= set(names)


@pytest.mark.parametrize(("name", "thing"), [pytest.param(*one, id=one[0]) for one in public_names()])
def test_a_public_name_has_a_docstring(name, thing):
    text = thing.__doc__ or ""  # its own: not what it would inherit
    assert len(text.split()) >= 2, f"{name} has no docstring"
    # What dataclass and NamedTuple put in the place of one.
    assert not text.startswith(name.rsplit(".", 1)[-1] + "("), f"{name} has only a generated docstring"
