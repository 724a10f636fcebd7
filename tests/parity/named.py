"""What the program itself names: its routes, the methods of its clients, its verbs with their words, its tools; and the table of it all."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from parity.defaults import DEFAULTS
from parity.operations import SECTIONS, No, Operation, Ways
from starlette.routing import BaseRoute, Route, WebSocketRoute

import agentkernel
from agentkernel.abc import Caller, Kernel
from agentkernel.api.app import build
from agentkernel.api.parts import Parts
from agentkernel.cli import parsing
from agentkernel.cli.verbs import VERBS, load
from agentkernel.mcp.tools import TOOLS

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "parity.md"
_HEAD: Final = """\
# Parity: every operation, every way to it

One list says what agentkernel does and how each front end has it done, or why not. It is `tests/parity/operations.py`; tests hold it
against the routes, the methods of the client (`Client` has those of `AsyncClient`, and so on), the verbs and the tools themselves, in both
directions, and run the same scenarios through the engine in process, the daemon's socket, the door of a server elsewhere (each by the
classes of the SDK, async and for threads), the HTTP API, the command line and MCP (`tests/parity/listed.py`, `tests/parity/*_scenarios.py`).
What a front is left out of, it is left out of for a reason that is written. This page is made of the list:
`PYTHONPATH=src:tests python3 -m parity.named > docs/parity.md`.

A command that fails is a result on every one of them, and an error has the same code on all: the HTTP API has it as `code`, MCP as `code` in
the structured content, the client as `code` of the exception, the command line with `--json` as `error.code`, and by its exit status
(`agentkernel.errors`).
"""
_DEFAULTS: Final = """\
## Where nothing is said

What is not said means the same on every way, but for these (`tests/parity/defaults.py`):

| when | HTTP | client | command line | MCP | because |
|---|---|---|---|---|---|"""


def routes() -> dict[str, str]:
    """Method and path by operation id."""

    def none(caller: Caller) -> Kernel:
        raise AssertionError("nobody asks")

    caller = Caller(principal="somebody")
    app = build(Parts(doors=none, caller=caller, version="0", environment={}))
    return dict(map(_route, _flat(app.routes)))


def _flat(given: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """The routes of the application and of the routers in it, which newer FastAPI keeps apart."""
    for route in given:
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route
        else:
            yield from _flat(inner.routes)


def _route(route: BaseRoute) -> tuple[str, str]:
    if isinstance(route, WebSocketRoute):
        return route.name, f"WebSocket {route.path}"
    if isinstance(route, Route):
        methods = sorted((route.methods or set()) - {"HEAD"})
        return getattr(route, "operation_id", None) or route.name, f"{' '.join(methods)} {re.sub(r':[a-z]+', '', route.path)}"
    raise AssertionError(f"what is {route!r}?")


def methods() -> set[str]:
    """`Class.method` of every public class of the SDK that is async."""
    found = set()
    for name in dir(agentkernel):
        kind = getattr(agentkernel, name)
        if name.startswith("Async") and inspect.isclass(kind):
            members = inspect.getmembers_static(kind, lambda member: not isinstance(member, property) and callable(member))
            found |= {f"{name}.{member}" for member, _ in members if not member.startswith("_")}
    return found


def verbs() -> dict[str, argparse.ArgumentParser]:
    """The parser of each verb, by the verb and the word behind it, where there are several."""
    found: dict[str, argparse.ArgumentParser] = {}
    for name in VERBS:
        parser = parsing.build(name, load(name))
        action = next((each for each in parser._actions if each.choices and not each.option_strings and each.dest != "shell"), None)
        found |= {f"{name} {word}": parser for word in (action.choices if action is not None else None) or ()}
        if action is None or (action.nargs == "?" and action.default is None):
            found[name] = parser
    return found


def tools() -> set[str]:
    """The names of the tools."""
    return set(TOOLS)


def table() -> str:
    """The document."""
    paths = routes()
    sections = [_HEAD]
    for title, rows in SECTIONS.items():
        lines = [f"## {title}", "", "| operation | HTTP | client | command line | MCP |", "|---|---|---|---|---|"]
        sections.append("\n".join([*lines, *(_row(row, paths) for row in rows)]) + "\n")
    return "\n".join([*sections, _defaults()])


def _defaults() -> str:
    lines = [_DEFAULTS, *(f"| {' | '.join(row)} |" for row in DEFAULTS.values())]
    return "\n".join(lines) + "\n"


def _row(row: Operation, paths: Mapping[str, str]) -> str:
    cells = (
        _cell(row.routes, lambda name: paths[name]),
        _cell(row.client, str),
        _cell(row.verbs, str),
        _cell(row.tools, str),
    )
    return f"| **{row.name}**: {row.what} | " + " | ".join(cells) + " |"


def _cell(ways: Ways, shown: Callable[[str], str]) -> str:
    if isinstance(ways, No):
        return f"*none: {ways.why}*"
    return "<br>".join(f"`{shown(way)}`" for way in ways)


if __name__ == "__main__":
    sys.stdout.write(table())
