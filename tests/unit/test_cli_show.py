"""What verbs read and show: times, ids, labels, signals, keys, paths."""

from __future__ import annotations

import time

import pytest

from agentkernel.cli.attachment import KeyFilter, choose, parse_keys
from agentkernel.cli.show import age, moment, parse_labels, parse_since
from agentkernel.cli.verbs.cp import split
from agentkernel.cli.verbs.kill import parse_signal
from agentkernel.errors import InvalidInput, NotFound
from agentkernel.model.inspection import ProcessRecord
from agentkernel.text.records import exec_text, parse_exec


@pytest.mark.parametrize(("passed_s", "shown"), [(0, "0s"), (59, "59s"), (61, "1m"), (7199, "1h"), (90000, "1d"), (-5, "0s")])
def test_an_age_is_in_its_largest_unit(passed_s: float, shown: str) -> None:
    assert age(time.time() - passed_s) == shown


def test_a_moment_is_iso_8601() -> None:
    assert moment(1767225600.25) == "2026-01-01T00:00:00.250Z"


def test_since_when() -> None:
    assert parse_since(None) == 0.0
    assert parse_since("@1767225600.5") == 1767225600.5
    assert parse_since("2026-01-01T00:00:00+00:00") == 1767225600.0
    assert abs(parse_since("10m") - (time.time() - 600)) < 5
    for wrong in ("2026-99-99", "@soon", "yesterday", "-5"):
        with pytest.raises(InvalidInput):
            parse_since(wrong)


def test_labels_are_sorted_and_the_last_of_two_wins() -> None:
    assert parse_labels(["b=2", "a=1", "b=3=4", "c="]) == (("a", "1"), ("b", "3=4"), ("c", ""))
    for wrong in ("plain", "=x"):
        with pytest.raises(InvalidInput):
            parse_labels([wrong])


def test_the_id_of_a_command_is_read_as_it_is_shown() -> None:
    assert parse_exec(exec_text(2**63 + 5)) == 2**63 + 5
    assert exec_text(1) == "0000000000000001"
    for wrong in ("", "0", "xyz", "0x1", "1" * 17):
        with pytest.raises(InvalidInput):
            parse_exec(wrong)


def test_signals_have_names_and_numbers() -> None:
    assert [parse_signal(word) for word in ("TERM", "sigkill", "9", "64")] == [15, 9, 9, 64]
    for wrong in ("0", "65", "TREM", ""):
        with pytest.raises(InvalidInput):
            parse_signal(wrong)


def test_keys_are_characters_and_controls() -> None:
    assert parse_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse_keys("ctrl-],x") == b"\x1dx"
    assert parse_keys("") == b""
    for wrong in ("ctrl-", "xy", "a,,b"):
        with pytest.raises(InvalidInput):
            parse_keys(wrong)


def test_keys_that_leave_are_found_however_they_are_cut() -> None:
    whole = KeyFilter(b"\x10\x11")
    assert whole.take(b"ab\x10\x11cd") == (b"ab", True)
    cut = KeyFilter(b"\x10\x11")
    assert [cut.take(part) for part in (b"a\x10", b"\x11")] == [(b"a", False), (b"", True)]
    other = KeyFilter(b"\x10\x11")
    assert [other.take(part) for part in (b"\x10", b"\x10", b"x", b"y")] == [
        (b"", False),
        (b"\x10", False),
        (b"\x10x", False),
        (b"y", False),
    ]
    assert KeyFilter(b"").take(b"\x10\x11") == (b"\x10\x11", False)


def _record(exec_id: int, at: int) -> ProcessRecord:
    return ProcessRecord(exec_id=exec_id, pid=1, running=True, detached=True, started_unix_ms=at, argv=(b"x",))


def test_the_newest_command_is_joined_unless_one_is_named() -> None:
    records = [_record(1, 5), _record(2, 9), _record(3, 7)]
    assert choose(records, None) is records[1]
    assert choose(records, 3) is records[2]
    assert choose([], None) is None
    with pytest.raises(NotFound):
        choose(records, 4)


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("box:/a", ("box", "/a")),
        ("box:/a//b/", ("box", "/a/b")),
        ("box:/a/.", ("box", "/a/.")),
        ("box:/", ("box", "/")),
        ("box:/.", ("box", "/")),
        ("./box:/a", None),
        ("/box:/a", None),
        ("dir/box:/a", None),
        ("plain", None),
        (":/a", None),
    ],
)
def test_a_path_inside_has_a_name_before_it(word: str, found: object) -> None:
    assert split(word) == found


@pytest.mark.parametrize("word", ["box:a", "box:", "box:/a/../b"])
def test_a_path_inside_is_absolute_and_plain(word: str) -> None:
    with pytest.raises(InvalidInput):
        split(word)
