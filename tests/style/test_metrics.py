"""What measures the tree must see what it is to forbid."""

from __future__ import annotations

import ast

import pytest
from style import metrics


def _module(text: str) -> metrics.Module:
    return metrics.Module(path=metrics.PACKAGE / "sample.py", lines=text.count("\n"), tree=ast.parse(text), text=text)


@pytest.mark.parametrize("line", ["import agentkernel.units", "from agentkernel import units", "from . import units"])
def test_an_import_of_the_package_inside_a_function_is_seen(line: str) -> None:
    assert metrics.late_imports(_module(f"def f() -> None:\n    {line}\n")) != []


@pytest.mark.parametrize(
    "text", ["from agentkernel import units\n", "def f() -> None:\n    import json\n", "def __getattr__(n):\n    import agentkernel.x\n"]
)
def test_other_imports_are_not(text: str) -> None:
    assert metrics.late_imports(_module(text)) == []


@pytest.mark.parametrize("caught", ["", " Exception", " (OSError, BaseException)"])
def test_a_silent_handler_of_everything_is_seen(caught: str) -> None:
    found = metrics.broad_excepts(_module(f"try:\n    f()\nexcept{caught}:\n    pass\n"))
    assert [reasoned for _, reasoned in found] == [False]


def test_a_reason_is_recognised_and_a_bare_noqa_is_none() -> None:
    reasoned = metrics.broad_excepts(_module("try:\n    f()\nexcept Exception:  # noqa: BLE001 - any failure is told\n    pass\n"))
    bare = metrics.broad_excepts(_module("try:\n    f()\nexcept Exception:  # noqa: BLE001\n    pass\n"))
    assert ([each for _, each in reasoned], [each for _, each in bare]) == ([True], [False])


def test_parameters_are_counted_with_self_and_stars() -> None:
    (function,) = metrics.functions(_module("class A:\n    def f(self, a: int, *b: int, c: int, **d: int) -> None: ...\n"))
    assert (function.parameters, function.annotated) == (5, True)


def test_a_missing_annotation_and_a_missing_docstring_are_seen() -> None:
    module = _module("def f(a) -> None: ...\n")
    assert [function.annotated for function in metrics.functions(module)] == [False]
    assert [documented for _, documented in metrics.exported(module, methods=False)] == [False]


def test_the_table_has_a_figure_for_every_point() -> None:
    assert all(point and value for point, value in metrics.table())
