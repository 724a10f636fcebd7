"""Sizes, durations and processor counts as people write them; nothing else in the package parses them.

Sizes are bytes, durations are seconds. Every failure is `InvalidInput` whose hint shows what would be right.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise

from agentkernel.errors import InvalidInput

MAX_SIZE_BYTES = 2**63 - 1
MAX_DURATION_S = 10.0**9  # about 31 years: fits every timer that it may reach

_SIZE = r"([0-9]{1,20})(?:\.([0-9]{1,20}))?[ ]?([a-z]{0,3})"
_DURATION_PART = r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(ms|us|[smhd])"
_PLAIN = r"[0-9]{1,12}(?:\.[0-9]{1,12})?"

# Bare letters are binary, as `docker run --memory 512m` has it; `KB` is what the SI says, `KiB` what IEC 80000-13 says.
_SIZE_UNITS = {
    "": 1, "b": 1,
    "k": 2**10, "kib": 2**10, "kb": 10**3,
    "m": 2**20, "mib": 2**20, "mb": 10**6,
    "g": 2**30, "gib": 2**30, "gb": 10**9,
    "t": 2**40, "tib": 2**40, "tb": 10**12,
}  # fmt: skip
_DURATION_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_STEPS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_SIZE_HINT = "write a number with a unit, such as 512MiB, 512m, 1.5g or 1GB"
_DURATION_HINT = "write seconds or units, such as 30, 30s, 250ms, 5m or 1h30m"
_CPUS_HINT = "write a positive number of processors, such as 2, 1.5 or 0.5"


def parse_size(text: str) -> int:
    """Bytes of `512MiB`, `512m`, `1g`, `10GB` or `1073741824`; a fraction of a byte is cut off."""
    lowered = text.strip().lower()
    match = re.fullmatch(_SIZE, lowered)
    if match is None or match[3] not in _SIZE_UNITS:
        raise _bad("size", text, _SIZE_HINT)
    decimals = match[2] or ""
    size_bytes: int = int(match[1] + decimals) * _SIZE_UNITS[match[3]] // 10 ** len(decimals)
    if size_bytes > MAX_SIZE_BYTES:
        raise InvalidInput(f"the size {text.strip()!r} is too large", hint="the largest size is 2^63-1 bytes")
    return size_bytes


def parse_duration(text: str) -> float:
    """Seconds of `30s`, `1h30m`, `250ms` or a plain number of seconds; 0 is legal, its meaning is the caller's."""
    lowered = text.strip().lower()
    if re.fullmatch(_PLAIN, lowered):
        duration_s = float(lowered)
    else:
        parts = re.findall(_DURATION_PART, lowered)
        if not parts or "".join(number + unit for number, unit in parts) != lowered:
            raise _bad("duration", text, _DURATION_HINT)
        factors = [_DURATION_UNITS[unit] for _, unit in parts]
        if any(later >= earlier for earlier, later in pairwise(factors)):
            raise InvalidInput(f"the units of {text.strip()!r} are out of order", hint=_DURATION_HINT)
        duration_s = math.fsum(float(number) * factor for (number, _), factor in zip(parts, factors, strict=True))
    if duration_s > MAX_DURATION_S:
        raise InvalidInput(f"the duration {text.strip()!r} is too long", hint="the longest duration is 10^9 seconds")
    return duration_s


def parse_cpus(text: str) -> float:
    """A positive number of processors, such as `1.5`."""
    stripped = text.strip()
    if not re.fullmatch(_PLAIN, stripped) or float(stripped) <= 0:
        raise _bad("number of processors", text, _CPUS_HINT)
    return float(stripped)


def format_size(size_bytes: int) -> str:
    """`512MiB`, `1.5GiB`, `100B`: at most one decimal, so exact only for what people write."""
    unit, step = next((each for each in _SIZE_STEPS if size_bytes >= each[1]), ("B", 1))
    whole, rest = divmod(size_bytes, step)
    return f"{whole}{unit}" if rest == 0 else f"{size_bytes / step:.1f}".removesuffix(".0") + unit


def format_duration(duration_s: float) -> str:
    """`250ms`, `1.5s`, `1h30m`, `2d`: milliseconds below a second, whole seconds from a minute on."""
    if duration_s < 0.9995:
        return f"{round(duration_s * 1000)}ms" if duration_s > 0 else "0s"
    if duration_s < 59.95:
        return f"{duration_s:.1f}".removesuffix(".0") + "s"
    left, text = round(duration_s), ""
    for unit, step in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, step)
        text += f"{count}{unit}" if count else ""
    return text


def _bad(what: str, text: str, hint: str) -> InvalidInput:
    shown = text if len(text) <= 40 else text[:40] + "..."
    if text.strip().startswith("-"):
        return InvalidInput(f"the {what} {shown!r} is negative", hint=hint)
    return InvalidInput(f"{shown!r} is not a {what}", hint=hint)
