"""Every public name says what it is, its units, its errors and its threads, and is in the reference."""

import ast
import inspect
import pathlib
import re
import textwrap
from importlib import import_module

import pytest

import crux_sync
import crux_sync.cluster
import crux_sync.metrics
import crux_sync.simulator

PAGES = [path.read_text() for path in (pathlib.Path(__file__).parent.parent / "docs" / "reference").glob("*.rst")]
REFERENCE = "\n".join(PAGES)

ERRORS = {
    name
    for name in crux_sync.__all__
    if inspect.isclass(value := getattr(crux_sync, name)) and issubclass(value, Exception)
} | {"TimeoutError"}

#: What shards ask of their gateway, and gateways of their shards; not for users.
INSIDE = {
    crux_sync.Gateway: {"gateway_url", "may_resume_at", "presence_for", "shard_failed", "session_changed", "report"},
    crux_sync.Shard: {"restore", "dealt_session", "start", "stop", "abort", "join", "cancelled", "blocking", "tick"},
    crux_sync.Subscription: {"room", "has_space", "deliver"},
    crux_sync.Event: {"typed"},
}


#: Inside, though a user may meet them: only what they are is shown.
NOT_SHOWN = {"crux_sync.queues.EventQueue", "crux_sync.simulator.world.Guild", "crux_sync.simulator.ServerSession"}


def documented() -> dict[str, object]:
    """What the reference shows, by its name there."""
    names = re.findall(r"auto(?:class|function|exception|data):: (crux_sync[\w.]*)", REFERENCE)
    return {name: getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names}


CLASSES = {name: value for name, value in documented().items() if inspect.isclass(value)}


def own(value: object) -> bool:
    return str(getattr(value, "__module__", "")).startswith("crux_sync")


def members(kind: type) -> dict[str, object]:
    """Methods and properties that this package defines: name to the function that holds the docstring."""
    found = {}
    for name, value in inspect.getmembers_static(kind):
        if name.startswith("_") or name in INSIDE.get(kind, ()):
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function) and own(function):
            found[name] = function
    return found


SHOWN = {name: members(kind) for name, kind in CLASSES.items() if name not in NOT_SHOWN}
METHODS = [(name, one, function) for name, methods in SHOWN.items() for one, function in methods.items()]


def text_of(name: str, one: str) -> str:
    """The docstring, and that of the class, which speaks for all of its methods."""
    return f"{inspect.getdoc(getattr(CLASSES[name], one)) or ''} {inspect.getdoc(CLASSES[name]) or ''}"


@pytest.mark.parametrize("module", [crux_sync, crux_sync.simulator, crux_sync.metrics])
def test_every_public_name_is_in_the_reference(module):
    shown = {name.rpartition(".")[2] for name in documented()} | {"__version__"}
    assert set(module.__all__) - shown == set()


def test_every_method_of_a_gateway_is_in_the_reference():
    assert {name for name in members(crux_sync.Gateway) if not re.search(rf"\b{name}\b", REFERENCE)} == set()


@pytest.mark.parametrize("name", list(documented()))
def test_it_has_a_docstring(name):
    value = documented()[name]
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__
        assert not value.__doc__.startswith(f"{value.__name__}("), name  # not the generated one
    assert [one for one in SHOWN.get(name, ()) if not inspect.getdoc(getattr(value, one))] == []


@pytest.mark.parametrize(("name", "one", "function"), METHODS)
def test_it_names_units_and_errors(name, one, function):
    text = text_of(name, one)
    if "timeout" in inspect.signature(function).parameters:
        assert "seconds" in text
    raised = {
        error
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))
        if isinstance(node, ast.Raise)
        for error in re.findall(r"\b[A-Z]\w+", ast.unparse(node.exc) if node.exc else "")
        if error in ERRORS
    }
    assert {error for error in raised if error not in text} == set()


@pytest.mark.parametrize("name", CLASSES)
def test_it_says_which_threads(name):
    kind = CLASSES[name]
    frozen = getattr(getattr(kind, "__dataclass_params__", None), "frozen", False)
    if not frozen and not issubclass(kind, tuple | int | Exception):  # what cannot change is anybody's
        page = next(one for one in PAGES if f":: {name}" in one)
        assert "thread" in (inspect.getdoc(kind) or "") + (page if "limits" in name else "")
