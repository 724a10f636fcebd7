"""What of a build's context is left out: .dockerignore, read as docker reads it.

The last pattern that fits counts, `!` takes one back, and what lies in a directory that fits, fits too. A pattern that is not understood
here (classes of letters, escapes, `**` within a name) leaves nothing out: whoever asks wants to know what may matter, and more than
that does no harm. Nothing here backtracks: patterns come with code that somebody else wrote.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_PATTERNS: Final = 1000
MAX_LINES: Final = 10_000
_ANY: Final = "**"
_SPACE: Final = "".join(
    map(chr, (*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000))
)
_NOT_UNDERSTOOD: Final = frozenset("[]\\")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line. `names` are its parts; None: everything fits."""

    names: tuple[str, ...] | None
    takes_back: bool

    def fits(self, path: Sequence[str]) -> bool:
        """Whether it is about that path itself, given as its parts."""
        return self.names is None or _fits(self.names, path)


def parse(text: str) -> tuple[Pattern, ...]:
    """The patterns of a file."""
    found = []
    lines = text.removeprefix("\ufeff").split("\n")  # and by nothing else that Python takes for the end of a line
    if len(lines) > MAX_LINES:
        return ()  # nothing is left out
    for line in lines:
        if line.startswith("#") or not (word := line.strip(_SPACE)):
            continue
        takes_back = word.startswith("!")
        word = word[1:].strip(_SPACE) if takes_back else word
        names = tuple(part for part in posixpath.normpath(word).split("/") if part and part != ".") if word else ()
        is_understood = bool(names) and not (_NOT_UNDERSTOOD & set(word)) and all(_ANY not in name or name == _ANY for name in names)
        if is_understood:
            found.append(Pattern(names, takes_back))
        elif takes_back:
            found.append(Pattern(None, takes_back=True))
    if len(found) > MAX_PATTERNS:
        return ()  # nothing is left out
    return tuple(found)


class Ignored:
    """What is left out along one way down. `below` is the same for something in that directory."""

    def __init__(self, patterns: tuple[Pattern, ...], path: tuple[str, ...] = (), fitting: tuple[bool, ...] | None = None) -> None:
        self._patterns = patterns
        self._path = path
        self._fitting = fitting or (False,) * len(patterns)

    def below(self, name: str) -> Ignored:
        """For an entry of this directory."""
        path = (*self._path, name)
        fitting = tuple(inherited or each.fits(path) for inherited, each in zip(self._fitting, self._patterns, strict=True))
        return Ignored(self._patterns, path, fitting)

    @property
    def is_left_out(self) -> bool:
        """Whether this very thing is."""
        return next(
            (not each.takes_back for each, fits in zip(reversed(self._patterns), reversed(self._fitting), strict=True) if fits), False
        )

    @property
    def is_all_left_out(self) -> bool:
        """Whether nothing in it can matter either."""
        return self.is_left_out and not any(each.takes_back for each in self._patterns)


def _fits(names: Sequence[str], path: Sequence[str]) -> bool:
    """`**` stands for any number of directories, at the end for at least one name. By rows of a table, so that it ends soon."""
    row = [True] + [False] * len(path)
    for at, name in enumerate(names):
        if name == _ANY:
            least = 1 if at == len(names) - 1 else 0
            reached, following = False, [False] * (len(path) + 1)
            for position in range(len(path) + 1):
                following[position] = reached or (least == 0 and row[position])
                reached = reached or row[position]
            row = following
        else:
            row = [False] + [row[position] and _is_like(name, path[position]) for position in range(len(path))]
    return row[len(path)]


def _is_like(pattern: str, name: str) -> bool:
    """`*` and `?`, with one place to come back to: in the worst case as many steps as both are long, multiplied."""
    at = place = 0
    star, back = -1, 0
    while place < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, back = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[place]):
            at += 1
            place += 1
        elif star >= 0:
            back += 1
            at, place = star + 1, back
        else:
            return False
    return pattern[at:].strip("*") == ""
