"""Lines of text for terminals and files: colours only where they can be shown. Nothing here may be slow to import."""

from __future__ import annotations

from collections.abc import Mapping

BOLD = "1"
RED = "31"
GREEN = "32"
YELLOW = "33"
DIM = "2"


def colourful(is_terminal: bool, environment: Mapping[str, str]) -> bool:
    """Whether to colour: on a terminal that can, unless NO_COLOR is set to anything (no-color.org)."""
    return is_terminal and not environment.get("NO_COLOR") and environment.get("TERM", "dumb") != "dumb"


def paint(text: str, colour: str, enabled: bool) -> str:
    """Wraps text in an SGR sequence."""
    return f"\x1b[{colour}m{text}\x1b[0m" if enabled else text


def printable(text: str) -> str:
    """One line without control characters: messages can hold bytes that a sandbox or an image chose."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text.replace("\n", " "))


def line(kind: str, message: str, hint: str = "", *, colours: bool = False) -> str:
    """`error: ...` or `note: ...`, and its hint on a line of its own; both end with a newline."""
    text = f"{paint(kind + ':', RED if kind == 'error' else YELLOW, colours)} {printable(message)}\n"
    return text + f"{paint('hint:', DIM, colours)} {printable(hint)}\n" if hint else text
