"""The table of defaults that differ says what routes, classes, verbs and tools do, and where they are to be the same they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra `api`")
pytest.importorskip("mcp", reason="needs the extra `mcp`")

from parity import named
from parity.defaults import DEFAULTS

import agentkernel
from agentkernel.api import shapes
from agentkernel.api.routes import processes, sandboxes
from agentkernel.api.streams import files as streamed
from agentkernel.config.options import create_options
from agentkernel.mcp import arguments


def _default(function: Callable[..., Any], name: str) -> object:
    return inspect.signature(function).parameters[name].default


def _field(kind: Any, name: str) -> object:
    return kind.model_fields[name].default


def _option(verb: str, name: str) -> object:
    return named.verbs()[verb].get_default(name)


FACTS: dict[str, tuple[tuple[Callable[[], object], object], ...]] = {
    "force": (
        (lambda: _default(sandboxes.sandbox_remove, "force"), True),
        (lambda: _default(agentkernel.AsyncClient.remove, "force"), False),
        (lambda: _default(agentkernel.AsyncSandbox.remove, "force"), False),
        (lambda: _option("remove", "force"), False),
        (lambda: "force" in arguments.Named.model_fields, False),
    ),
    "start": (
        (lambda: _field(shapes.CreateBody, "start"), True),
        (lambda: create_options({}).start, True),
        (lambda: _option("create", "start"), False),
        (lambda: "start" in arguments.CreateArguments.model_fields, False),
    ),
    "kill": (
        (lambda: _field(shapes.SignalBody, "tree"), True),
        (lambda: _default(agentkernel.AsyncProcess.signal, "tree"), True),
        (lambda: _default(agentkernel.Process.signal, "tree"), True),
        (lambda: _option("kill", "signal"), "TERM"),
        (lambda: _field(arguments.KillArguments, "signal"), 9),
    ),
    "ended": (
        (lambda: _default(processes.process_list, "ended"), False),
        (lambda: _option("ps", "all"), False),
        (lambda: "ended" in inspect.signature(agentkernel.AsyncSandbox.processes).parameters, False),
    ),
    "parents": (
        (lambda: _field(shapes.MakeDirectoryBody, "parents"), False),
        (lambda: _default(streamed.file_upload, "parents"), False),
        (lambda: _default(agentkernel.AsyncFiles.write, "parents"), False),
        (lambda: _default(agentkernel.AsyncFiles.make_directory, "parents"), False),
        (lambda: "parents" in arguments.WriteArguments.model_fields, False),
    ),
    "extend": (
        (lambda: shapes.ExtendBody.model_fields["by"].is_required(), True),
        (lambda: _default(agentkernel.AsyncSandbox.extend, "ttl"), inspect.Parameter.empty),
        (lambda: _option("extend-ttl", "ttl"), None),
        (lambda: _field(arguments.ExtendArguments, "by"), "1h"),
    ),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_differs_does_so_as_the_table_says(name: str) -> None:
    assert [found() for found, _ in FACTS[name]] == [expected for _, expected in FACTS[name]]
    assert all(cell.strip() for cell in DEFAULTS[name])


def test_every_row_is_held_against_the_program() -> None:
    assert FACTS.keys() == DEFAULTS.keys()
