"""Lists that people review: words in lines, each group under a `#` comment that says why."""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """The words of a list, without its comment lines, each once."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return tuple(dict.fromkeys(word for line in lines for word in line.split()))
