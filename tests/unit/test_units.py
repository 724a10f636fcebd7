"""Sizes, durations and processor counts as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkernel.errors import InvalidInput
from agentkernel.units import MAX_SIZE_BYTES, format_duration, format_size, parse_cpus, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1073741824", 2**30),
        ("512MiB", 512 * 2**20),
        ("512m", 512 * 2**20),
        ("512M", 512 * 2**20),
        ("1g", 2**30),
        ("2k", 2048),
        ("1t", 2**40),
        ("10KB", 10_000),
        ("10MB", 10_000_000),
        ("3GB", 3_000_000_000),
        ("1TB", 10**12),
        ("1KiB", 1024),
        ("1TiB", 2**40),
        ("100b", 100),
        ("1.5g", 3 * 2**29),
        ("0.5 MiB", 2**19),
        (" 64 mib ", 64 * 2**20),
        ("0.1", 0),
        (str(MAX_SIZE_BYTES), MAX_SIZE_BYTES),
    ],
)
def test_a_size_is_read_as_its_unit_says(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "m",
        "-1",
        "-5m",
        "1x",
        "1 2",
        "1,5g",
        "nan",
        "inf",
        "1e3",
        "0x10",
        "1.m",
        ".5g",
        "٣m",
        "1gg",
        "--",
        "1.5.2g",
        "1  g",
        "1\n2",
    ],
)
def test_what_is_not_a_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_size(text)
    assert "512MiB" in refused.value.hint


@pytest.mark.parametrize("text", [str(MAX_SIZE_BYTES + 1), "8388608t", "9" * 20 + "t"])
def test_a_size_beyond_the_kernels_integers_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="too large"):
        parse_size(text)


def test_a_negative_size_is_called_negative() -> None:
    with pytest.raises(InvalidInput, match="negative"):
        parse_size("-512m")


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [
        ("0", 0),
        ("30", 30),
        ("1.5", 1.5),
        ("30s", 30),
        ("250ms", 0.25),
        ("10us", 1e-5),
        ("5m", 300),
        ("1h30m", 5400),
        ("1H30M", 5400),
        ("2d", 172800),
        ("1d1h1m1s1ms", 90061.001),
        ("1.5h", 5400),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, duration_s: float) -> None:
    assert parse_duration(text) == pytest.approx(duration_s)


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "-5s", "1w", "nan", "inf", "1e3", "30m1h", "1m1m", "1h 30m", "1h30", "5 m", "٣s", "1.s", "h1"]
)
def test_what_is_not_a_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_duration(text)
    assert "1h30m" in refused.value.hint


def test_a_duration_beyond_any_timer_is_refused() -> None:
    assert parse_duration("1000000000") == 1e9
    with pytest.raises(InvalidInput, match="too long"):
        parse_duration("999999999999d")


@pytest.mark.parametrize(("text", "cpus"), [("1", 1.0), ("1.5", 1.5), ("0.01", 0.01), (" 64 ", 64.0)])
def test_processors_are_read_as_a_number(text: str, cpus: float) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "nan", "inf", "1e2", "two", "1,5", "50%"])
def test_what_is_not_a_number_of_processors_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_cpus(text)
    assert "1.5" in refused.value.hint


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0B"),
        (100, "100B"),
        (1024, "1KiB"),
        (1536, "1.5KiB"),
        (512 * 2**20, "512MiB"),
        (3 * 2**29, "1.5GiB"),
        (2**40, "1TiB"),
        (2**30 + 1, "1GiB"),
    ],
)
def test_a_size_is_shown_in_its_largest_unit(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (0.9999, "1s"),
        (1.5, "1.5s"),
        (30, "30s"),
        (59.99, "1m"),
        (90, "1m30s"),
        (5400, "1h30m"),
        (172800, "2d"),
        (3600.4, "1h"),
    ],
)
def test_a_duration_is_shown_in_units(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text


@given(st.integers(0, MAX_SIZE_BYTES // 2))
def test_a_shown_size_is_readable_and_about_right(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.05)


@given(st.floats(0.0005, 1e8))
def test_a_shown_duration_is_readable_and_about_right(duration_s: float) -> None:
    assert parse_duration(format_duration(duration_s)) == pytest.approx(duration_s, rel=0.05, abs=0.0006)


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_an_error_with_a_hint(text: str) -> None:
    for parse in (parse_size, parse_duration, parse_cpus):
        try:
            assert parse(text) >= 0
        except InvalidInput as refused:
            assert refused.hint
