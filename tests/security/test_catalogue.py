"""The catalogue itself: every program says what it claims, and every claim stands in the threat model."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from security.catalogue import Program, programs, read_program

THREAT_MODEL = Path(__file__).parent.parent.parent / "docs" / "threat-model.md"
CATALOGUE = programs()
ROWS = [line for line in THREAT_MODEL.read_text().partition("## Claims")[2].splitlines() if line.startswith("| `")]


def test_there_are_programs_for_every_part_of_the_matrix() -> None:
    counts = Counter(program.matrix for program in CATALOGUE)
    assert set(counts) == set("ABCE")
    assert len(CATALOGUE) >= 130


def test_no_claim_is_made_twice() -> None:
    claims = Counter(program.claim for program in CATALOGUE)
    assert [claim for claim, count in claims.items() if count > 1] == []


@pytest.mark.parametrize("program", CATALOGUE, ids=lambda program: program.name)
def test_its_row_of_the_threat_model_names_it(program: Program) -> None:
    row = next((line for line in ROWS if line.startswith(f"| `{program.row}` ")), None)
    assert row is not None, f"docs/threat-model.md has no row {program.row!r}"
    assert re.search(rf"\b{program.name}\b", row), f"the row {program.row!r} does not name {program.name}"


def test_the_threat_model_names_no_program_that_does_not_exist() -> None:
    named = {name for row in ROWS for name in re.findall(r"[a-z0-9_]+", row.rsplit("|", 2)[1])}
    assert named <= {program.name for program in CATALOGUE} | {"test_images", "test_network"}


@pytest.mark.parametrize(
    "head", ["// claim: x\n// control: none\n", "// claim: x\n// control: sometimes\n", "// clam: x\n// control: safe\n"]
)
def test_a_program_with_a_wrong_head_is_refused(tmp_path: Path, head: str) -> None:
    path = tmp_path / "wrong.c"
    path.write_text(head)
    with pytest.raises(ValueError, match=r"wrong\.c"):
        read_program(path)


def test_most_programs_are_tried_outside() -> None:
    tried = [program for program in CATALOGUE if program.control != "none"]
    assert len(tried) >= 0.75 * len(CATALOGUE)
