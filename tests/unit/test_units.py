"""Sizes and durations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkernel.errors import InvalidInput
from agentkernel.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4096", 4096), ("512MiB", 512 << 20), ("512m", 512 << 20), ("512MB", 512 << 20), ("1.5G", 3 << 29), ("2 GiB", 2 << 30), ("7b", 7)],
)
def test_a_size_is_read_with_or_without_the_i(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "1x", "MiB", "1.1b", "1e3", "٣", "9" * 30, "99999999t", "1 MiB 2"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_size(text)


@given(st.integers(min_value=1, max_value=1 << 50))
def test_a_formatted_size_is_read_back_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "expected"), [("30", 30.0), ("30s", 30.0), ("1m30s", 90.0), ("500ms", 0.5), ("2h", 7200.0), ("0.5", 0.5), ("1d", 86400.0)]
)
def test_a_duration_is_read_in_seconds(text: str, expected: float) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0s", "-1s", "1w", "s", "1m 30s", "1s2", "inf", "nan", "1e3"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=10**10))
def test_a_formatted_duration_is_read_back_to_the_millisecond(milliseconds: int) -> None:
    assert round(parse_duration(format_duration(milliseconds / 1000)) * 1000) == milliseconds
