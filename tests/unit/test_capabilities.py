"""The table of capabilities: complete, made by its generator, and read again as what it says. The conformance tests compare it with backends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentkernel import assembly
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Support
from agentkernel.testing.capabilities import Column, column_of, differences, document, main, record, recorded, stated

PAGE = Path(__file__).parents[2] / "docs" / "backends" / "capabilities.md"
FOUND = Fingerprint(
    backend="docker",
    ready=True,
    level=IsolationLevel.CONTAINER,
    features={
        **dict.fromkeys(Feature, Provision(support=Support.NATIVE)),
        Feature.DISK_LIMIT: Provision(support=Support.EMULATED, reason="it is sampled"),
        Feature.GPUS: Provision(support=Support.REFUSED, reason="there are none"),
    },
)


@pytest.fixture
def column() -> Column:
    return column_of(FOUND, privileged=True)


def _cells(column: Column) -> dict[str, str]:
    return stated(document([column]))[column.title]


def test_the_page_has_every_backend_and_every_feature() -> None:
    cells = stated(PAGE.read_text())
    assert {title.partition(" ")[0] for title in cells} == set(assembly.BACKENDS)
    for title, said in cells.items():
        assert set(said) == {"isolation level", *(feature.value for feature in Feature)}, title


def test_what_the_page_says_less_than_native_has_its_reason() -> None:
    text = PAGE.read_text()
    for title, said in stated(text).items():
        section = text.partition(f"### {title}\n")[2].partition("\n### ")[0]
        for feature in Feature:
            word = said[feature.value].rstrip("*+")
            if word != "native":
                (line,) = [line for line in section.split("\n") if feature.value in line.partition(":")[0].removeprefix("* ").split(", ")]
                assert line.split(": ")[1] == word and len(line.split(": ")) > 2, line


def test_a_page_says_what_it_was_made_of(column: Column) -> None:
    cells = _cells(column)
    assert (cells["exec"], cells["disk-limit"], cells["gpus"], cells["isolation level"]) == ("native", "emulated", "refused+", "container")
    assert differences(column, cells) == []
    assert "* disk-limit: emulated: it is sampled" in document([column])


def test_a_column_survives_its_record(column: Column, tmp_path: Path) -> None:
    plain = replace(column, privileged=False)
    for each in (plain, column):
        record(each, tmp_path)
    assert recorded(tmp_path) == [column, plain]
    assert [each.title for each in recorded(tmp_path)] == ["docker", "docker (plain user)"]
    assert main([str(tmp_path), str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == document([column, plain])


@pytest.mark.parametrize(
    ("feature", "found", "fits"),
    [
        (Feature.EXEC, Support.EMULATED, False),  # no mark: it must be so
        (Feature.MEMORY_LIMIT, Support.EMULATED, True),  # hosts can have less
        (Feature.MEMORY_LIMIT, Support.REFUSED, True),
        (Feature.GPUS, Support.NATIVE, True),  # hosts can have more
        (Feature.DISK_LIMIT, Support.NATIVE, False),
        (Feature.DISK_LIMIT, Support.REFUSED, False),
    ],
)
def test_only_a_marked_cell_may_differ(feature: Feature, found: Support, fits: bool, column: Column) -> None:
    other = replace(column, supports={**column.supports, feature: found})
    assert (differences(other, _cells(column)) == []) is fits


def test_a_page_without_a_cell_or_with_another_level_is_wrong(column: Column) -> None:
    cells = _cells(column)
    del cells["exec"]
    assert differences(column, cells) == ["exec is native, not left out"]
    cells = {**_cells(column), "isolation level": "vm"}
    assert differences(column, cells) == ["isolation level is container"]
