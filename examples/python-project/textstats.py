"""Counts the lines, words and longest words of a text: `python3 -m textstats FILE`."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


@dataclass(frozen=True)
class Statistics:
    """What a text consists of."""

    lines: int
    words: int
    most_common: tuple[tuple[str, int], ...]
    longest: str


def measure(text: str, top: int = 3) -> Statistics:
    """Measures `text`; words are compared without case, the first of equally long ones wins."""
    words = [word.lower() for word in WORD.findall(text)]
    return Statistics(
        lines=len(text.splitlines()),
        words=len(words),
        most_common=tuple(Counter(words).most_common(top)),
        longest=max(words, key=len, default=""),
    )


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print("usage: python3 -m textstats FILE", file=sys.stderr)
        return 2
    with open(argv[1], encoding="utf-8") as file:
        found = measure(file.read())
    print(f"{found.lines} lines, {found.words} words, longest {found.longest!r}")
    for word, count in found.most_common:
        print(f"{count:5} {word}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
