"""Sizes and durations as people write them: "512MiB" <-> bytes, "30s" <-> seconds. Nothing else parses them."""

from __future__ import annotations

import re

from agentkernel.errors import InvalidInput

# Without the i the unit is a power of 1024 too: `--memory 512m` means the same here as to docker, podman and ulimit.
SIZE_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,6})?)\s*(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)", re.ASCII)
_LARGEST_SIZE = 1 << 60


def parse_size(text: str) -> int:
    """Bytes of "512MiB", "512m", "1.5G" or "4096"; a unit is a power of 1024 with or without its i.

    Raises:
        InvalidInput: not a size, zero, not a whole number of bytes, or more than an exbibyte.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is not a size", hint="write it like 512MiB, 2GiB or a number of bytes")
    size = (
        float(match[1]) * SIZE_UNITS[(match[2] or "b").lower()]
        if "." in match[1]
        else int(match[1]) * SIZE_UNITS[(match[2] or "b").lower()]
    )
    if size != int(size) or not 0 < size <= _LARGEST_SIZE:
        raise InvalidInput(f"{text!r} is not a whole number of bytes between 1 and 1 EiB")
    return int(size)


def format_size(size_bytes: int) -> str:
    """The shortest exact text: 536870912 -> "512MiB", 1000 -> "1000B"; `parse_size` reads it back."""
    for unit in ("t", "g", "m", "k"):
        factor = SIZE_UNITS[unit]
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit.upper()}iB"
    return f"{size_bytes}B"


def parse_duration(text: str) -> float:
    """Seconds of "30s", "1m30s", "500ms", "2h" or "45" (seconds).

    Raises:
        InvalidInput: not a duration, or not above zero.
    """
    compact = text.strip()
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", compact, re.ASCII):
        compact += "s"
    parts = _DURATION.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise InvalidInput(f"{text!r} is not a duration", hint="write it like 30s, 1m30s or 500ms")
    seconds = sum(float(number) * DURATION_UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise InvalidInput(f"{text!r} is not above zero")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest exact text down to milliseconds: 90.0 -> "1m30s", 0.5 -> "500ms"."""
    left_ms = round(seconds * 1000)
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, left_ms = divmod(left_ms, round(DURATION_UNITS[unit] * 1000))
        if count:
            parts.append(f"{count}{unit}")
    if left_ms or not parts:
        parts.append(f"{left_ms}ms")
    return "".join(parts)
