"""The session's state machine, found by asking it: each stimulus is given to a session in each state.

``crux_sync.session`` is pure, so the tables of opcodes and close codes need not be read by eye: a session is brought
into a state, told that something happened, and what it then does is what the drawing and the table say. No thread,
socket or clock is involved. Run this file to print the drawing as graphviz source.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from crux_sync.actions import Disconnect, Fail, Redial, State
from crux_sync.close_codes import CLOSE_POLICY, UNKNOWN_CODE
from crux_sync.opcodes import Opcode
from crux_sync.session import HANDLERS, HELLO_DEADLINE, READY_DEADLINE, Session

NEW, RESUMABLE = "without a session", "with a session"


class Node(NamedTuple):
    """A state, and whether there is a session to lose."""

    state: State
    side: str

    @property
    def name(self) -> str:
        return f"{self.state} {self.side}".replace(" ", "_")


FAILED = Node(State.FAILED, "")


def create(side: str) -> Session:
    """A session before its first connection, or with one to resume."""
    session = Session(0, 1, uniform=lambda least, most: least)
    if side == RESUMABLE:
        session.session_id, session.sequence = "session", 41
    return session


def connecting(side: str) -> Session:
    session = create(side)
    session.opened(0.0)
    return session


def greeted(side: str) -> Session:
    session = connecting(side)
    session.receive(Opcode.HELLO, {"heartbeat_interval": 41250}, 0.0)
    return session


def ready() -> Session:
    session = greeted(NEW)
    session.receive(Opcode.DISPATCH, {"session_id": "session"}, 1.0, "READY", 1)
    return session


#: The states in which there is a connection, and how a session gets there.
CONNECTED: dict[Node, Callable[[], Session]] = {
    Node(State.CONNECTING, NEW): lambda: connecting(NEW),
    Node(State.IDENTIFYING, NEW): lambda: greeted(NEW),
    Node(State.CONNECTING, RESUMABLE): lambda: connecting(RESUMABLE),
    Node(State.RESUMING, RESUMABLE): lambda: greeted(RESUMABLE),
    Node(State.READY, RESUMABLE): ready,
}

#: Data that an opcode comes with, and how it is called; op 9 says two things.
DATA = {
    Opcode.HELLO: [("op 10 Hello", {"heartbeat_interval": 41250})],
    Opcode.INVALID_SESSION: [("op 9 true", True), ("op 9 false", False)],
    Opcode.RECONNECT: [("op 7", None)],
    Opcode.HEARTBEAT: [("op 1", None)],
    Opcode.HEARTBEAT_ACK: [("op 11", None)],
}


def where(session: Session) -> Node:
    if session.state is State.FAILED:
        return FAILED
    return Node(session.state, RESUMABLE if session.can_resume else NEW)


def settled(session: Session, actions: list[object]) -> Session:
    """As the shard does: when told to leave the connection, report that it is gone."""
    if any(isinstance(action, Disconnect) for action in actions):
        session.lost(None, "", 2.0)
    assert not any(isinstance(one, Redial | Fail) for one in actions) or session.state in (State.WAITING, State.FAILED)
    return session


def opcode(op: int, data: object, name: str | None = None, sequence: int | None = None) -> Callable[[Session], None]:
    return lambda session: settled(session, session.receive(op, data, 2.0, name, sequence)) and None


def close(code: int) -> Callable[[Session], None]:
    return lambda session: settled(session, session.lost(code, "", 2.0)) and None


def silence(session: Session) -> None:
    """Beats go unanswered, nothing else comes either."""
    for _ in range(100):
        deadline = session.next_deadline()
        if deadline is None:
            return
        settled(session, session.tick(deadline))


def stimuli() -> dict[str, Callable[[Session], None]]:
    """Everything that may happen to a connection, by name."""
    found: dict[str, Callable[[Session], None]] = {}
    for op in HANDLERS:
        for name, data in DATA[Opcode(op)]:
            found[name] = opcode(op, data)
    found["READY"] = opcode(Opcode.DISPATCH, {"session_id": "new"}, "READY", 42)
    found["RESUMED"] = opcode(Opcode.DISPATCH, {}, "RESUMED", 42)
    found["another event"] = opcode(Opcode.DISPATCH, {}, "TYPING_START", 42)
    found["another opcode"] = opcode(99, None)
    for code in CLOSE_POLICY:
        found[f"close {code}"] = close(code)
    found["close, other code"] = close(4999)
    found["silence"] = silence
    found["broken stream"] = lambda session: settled(session, session.protocol_broken("")) and None
    return found


def transitions() -> dict[str, dict[Node, Node]]:
    """Stimulus to (state before to state after)."""
    table: dict[str, dict[Node, Node]] = {}
    for name, happen in stimuli().items():
        row = {}
        for node, bring in CONNECTED.items():
            session = bring()
            happen(session)
            row[node] = where(session)
        table[name] = row
    return table


#: The server says these only in answer, in one state: the others show nothing for them.
ANSWERS = {"READY": State.IDENTIFYING, "RESUMED": State.RESUMING, "op 10 Hello": State.CONNECTING}


def edges() -> dict[tuple[Node, Node], list[str]]:
    """(before, after) to stimuli, without what changes nothing."""
    found: dict[tuple[Node, Node], list[str]] = defaultdict(list)
    for name, row in transitions().items():
        for before, after in row.items():
            if before != after and ANSWERS.get(name, before.state) is before.state:
                found[before, after].append(name)
    return found


def groups() -> dict[str, list[str]]:
    """The close codes by what they do to a session that could be resumed."""
    found: dict[str, list[str]] = {"fatal close": [], "ending close": [], "other close": []}
    for name, row in transitions().items():
        if name.startswith("close"):
            after = row[Node(State.READY, RESUMABLE)]
            kind = "fatal" if after == FAILED else "ending" if after.side == NEW else "other"
            found[f"{kind} close"].append(name)
    return found


def label(names: list[str]) -> str:
    """Stimuli in short, two on each line; close codes by their group."""
    words = [name for name in names if not name.startswith("close")]
    for group, codes in groups().items():
        if set(codes) <= set(names):
            words.append(group)
        else:
            words += [name for name in names if name in codes]
    return ",\\n".join(", ".join(words[start : start + 2]) for start in range(0, len(words), 2))


def legend() -> str:
    def said(group: str, codes: list[str]) -> str:
        numbers = [code.removeprefix("close").strip(" ,").replace("other code", "any other") for code in codes]
        return f"{group}: {', '.join(numbers)}\\l"

    return "".join(said(group, codes) for group, codes in groups().items())


def drawing() -> str:
    """Graphviz source. What holds in every state of a side is drawn once, from the frame around them."""
    together = edges()
    lines = [
        "digraph session {",
        'compound=true; rankdir=TB; bgcolor="white"; nodesep=0.9; ranksep=0.6; fontname="sans-serif"; newrank=true;',
        f'labelloc=b; labeljust=l; fontsize=12; label="\\n{legend()}";',
        'node [shape=box, style="rounded,filled", fillcolor="#e8eefc", fontname="sans-serif", fontsize=14];',
        'edge [fontname="sans-serif", fontsize=12, color="#445566"];',
    ]
    for number, side in enumerate((NEW, RESUMABLE)):
        nodes = [node for node in CONNECTED if node.side == side]
        lines.append(f"subgraph cluster_{number} {{")
        lines.append(f'label="connected, {side}"; labelloc={"tb"[number]}; style="rounded,filled";')
        lines.append('fillcolor="#f7f9fe"; color="#99aabb";')
        lines += [f'{node.name} [label="{node.state}"];' for node in nodes]
        lines.append("}")
    lines.append(f'{FAILED.name} [label="failed", fillcolor="#fbe3e3"];')
    for side, next_one in ((NEW, "identify"), (RESUMABLE, "resume")):
        waiting = Node(State.WAITING, side).name
        first = Node(State.CONNECTING, side).name
        lines.append(f'{waiting} [label="waiting, to {next_one}", fillcolor="#fdf3dc"];')
        lines.append(f'{waiting} -> {first} [label="  back-off is over"];')
    for number, side in enumerate((NEW, RESUMABLE)):
        sources = [node for node in CONNECTED if node.side == side]
        for target in dict.fromkeys(after for before, after in together if before in sources):
            if target in CONNECTED:
                continue
            common = [
                name for name in together[sources[0], target] if all(name in together[one, target] for one in sources)
            ]
            # One arrow from the frame for what holds in all of them.
            last = sources[-1].name
            if common:
                lines.append(f'{last} -> {target.name} [ltail=cluster_{number}, label="{label(common)}"];')
            for source in sources:
                rest = [name for name in together[source, target] if name not in common]
                if rest:
                    lines.append(f'{source.name} -> {target.name} [label="{label(rest)}"];')
    for (before, after), names in together.items():
        if after in CONNECTED:
            lines.append(f'{before.name} -> {after.name} [label="  {label(names)}", penwidth=2];')
    lines.append("}")
    return "\n".join(lines)


def rows() -> list[list[str]]:
    """The whole table as text: a heading, then one row for each stimulus."""
    short = {NEW: "new", RESUMABLE: "resumable"}
    heading = ["What happens", *[f"{node.state}, {short[node.side]}" for node in CONNECTED]]

    def cell(before: Node, after: Node) -> str:
        if after == before:
            return "goes on"
        if after.state is State.WAITING:
            return "resume" if after.side == RESUMABLE else "identify"
        return str(after.state) if after.state is not State.FAILED else "fatal"

    names = {code: policy.name for code, policy in CLOSE_POLICY.items()}
    body = []
    for name, row in transitions().items():
        code = name.removeprefix("close ")
        said = f"{name}, {names[int(code)]}" if code.isdigit() else name
        if name == "close, other code":
            said = f"close, any other code ({UNKNOWN_CODE.outcome.value})"
        if name == "silence":
            said = f"silence: no Hello in {HELLO_DEADLINE:g} s, no READY in {READY_DEADLINE:g} s, no ack"
        cells = [
            cell(before, after) if ANSWERS.get(name, before.state) is before.state else "-"
            for before, after in row.items()
        ]
        body.append([said, *cells])
    return [heading, *body]


if __name__ == "__main__":
    print(drawing())
