"""The list of operations is complete: what it names is there, and what is there it names."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

pytest.importorskip("fastapi", reason="needs the extra `api`")
pytest.importorskip("mcp", reason="needs the extra `mcp`")

from parity import named
from parity.operations import KERNEL, OPERATIONS, SECTIONS, No, Ways

from agentkernel.abc import Kernel


def _all(ways: Iterable[Ways]) -> set[str]:
    return {way for each in ways if not isinstance(each, No) for way in each}


def test_every_route_is_in_the_list_and_every_route_of_the_list_is_there() -> None:
    assert _all(row.routes for row in OPERATIONS.values()) == set(named.routes())


def test_every_method_of_the_client_is_in_the_list_and_the_other_way_round() -> None:
    assert _all(row.client for row in OPERATIONS.values()) == named.methods()


def test_every_tool_is_in_the_list_and_the_other_way_round() -> None:
    assert _all(row.tools for row in OPERATIONS.values()) == named.tools()


def test_every_verb_is_in_the_list_and_the_other_way_round() -> None:
    parsers = named.verbs()
    listed = set()
    for way in _all(row.verbs for row in OPERATIONS.values()):
        verb, _, option = way.partition(" --")
        listed.add(verb)
        assert not option or f"--{option}" in parsers[verb]._option_string_actions, way
    assert listed == set(parsers)


def test_whatever_the_kernel_does_is_behind_an_operation() -> None:
    assert {name for name in dir(Kernel) if not name.startswith("_")} == KERNEL.keys()
    assert set(KERNEL.values()) <= OPERATIONS.keys()


def test_each_operation_has_one_row_some_way_and_for_every_other_way_a_reason() -> None:
    assert len(OPERATIONS) == sum(map(len, SECTIONS.values()))
    for row in OPERATIONS.values():
        ways = (row.routes, row.client, row.verbs, row.tools)
        assert any(not isinstance(way, No) for way in ways), row.name
        assert all(way.why.strip() if isinstance(way, No) else way for way in ways), row.name


def test_the_document_is_the_list() -> None:
    assert named.DOCUMENT.read_text() == named.table(), "PYTHONPATH=src:tests python3 -m parity.named > docs/parity.md"
