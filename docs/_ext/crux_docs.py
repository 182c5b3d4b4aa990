"""What the documentation takes from the code itself: drawings, tables and help texts that cannot fall behind."""

import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from session_states import drawing, rows
from sphinx.application import Sphinx
from sphinx.ext.graphviz import graphviz

from crux_sync.cli import create_parser
from crux_sync.intents import ALL, EVENT_INTENTS, PRIVILEGED, Intents


class SessionDrawing(Directive):
    """``.. session-drawing::``: the state machine, drawn."""

    def run(self) -> list[nodes.Node]:
        node = graphviz()
        node["code"], node["options"] = drawing(), {}
        node["alt"] = "The states of a session and what leads from one to another; the table below says the same."
        return [node]


class SessionTable(Directive):
    """``.. session-table::``: the state machine, as a table."""

    def run(self) -> list[nodes.Node]:
        heading, *body = rows()
        return [table(heading, body, [4] + [1] * (len(heading) - 1))]


class IntentsTable(Directive):
    """``.. intents-table::``: each flag, its bit, and the events it brings."""

    def run(self) -> list[nodes.Node]:
        body = []
        for flag in Intents(ALL):
            events = [name for name, needed in EVENT_INTENTS.items() if needed & flag]
            privileged = " (privileged)" if flag & PRIVILEGED else ""
            content = "the content of messages in guilds" if flag is Intents.MESSAGE_CONTENT else ", ".join(events)
            body.append([f"{flag.name}{privileged}", f"1 << {flag.value.bit_length() - 1}", content])
        always = ", ".join(name for name, needed in EVENT_INTENTS.items() if not needed)
        return [table(["Intent", "Value", "Brings"], [*body, ["none", "0", always]], [3, 1, 6])]


class CommandHelp(Directive):
    """``.. command-help::``: what each command prints with ``--help``."""

    def run(self) -> list[nodes.Node]:
        parser = create_parser()
        parsers = {"crux-sync": parser}
        for action in parser._subparsers._group_actions if parser._subparsers else []:
            parsers |= {f"crux-sync {name}": one for name, one in (action.choices or {}).items()}
        found: list[nodes.Node] = []
        for name, one in parsers.items():
            section = nodes.section(ids=[nodes.make_id(name)])
            text = re.sub(r"\x1b\[[0-9;]*m", "", one.format_help())
            section += [nodes.title(text=name), nodes.literal_block(text, text, language="none")]
            found.append(section)
        return found


def table(heading: list[str], body: list[list[str]], widths: list[int]) -> nodes.table:
    group = nodes.tgroup(cols=len(heading))
    group += [nodes.colspec(colwidth=width) for width in widths]
    head, rest = nodes.thead(), nodes.tbody()
    head += row(heading)
    rest += [row(cells) for cells in body]
    group += [head, rest]
    whole = nodes.table()
    whole += group
    return whole


def row(cells: list[str]) -> nodes.row:
    found = nodes.row()
    for text in cells:
        entry = nodes.entry()
        entry += nodes.paragraph(text=text)
        found += entry
    return found


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("session-drawing", SessionDrawing)
    app.add_directive("session-table", SessionTable)
    app.add_directive("intents-table", IntentsTable)
    app.add_directive("command-help", CommandHelp)
    return {"version": "1", "parallel_read_safe": True}
