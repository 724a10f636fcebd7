"""Which GPUs a request may name: the words that container engines know."""

from __future__ import annotations

import re

from agentkernel.errors import InvalidInput

_ID = r"[A-Za-z0-9][A-Za-z0-9._:/=-]{0,63}"
_WORDS = re.compile(rf"all|[1-9][0-9]?|{_ID}(?:,{_ID}){{0,31}}")


def checked_gpus(text: str) -> str:
    """`all`, how many, or ids joined by commas (`GPU-5ea1`, `0,1` are ids); raises InvalidInput."""
    if not _WORDS.fullmatch(text) or text == "0":
        raise InvalidInput(f"{text[:80]!r} names no GPUs", hint="write all, a number of them, or ids joined by commas: GPU-5ea1,GPU-77b2")
    return text
