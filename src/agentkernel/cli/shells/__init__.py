"""Completion scripts from a list of verbs and flags; pure text.

Where a verb takes a sandbox, the script asks for their names (`SANDBOXES`), which costs little and starts no daemon. After `run`, `exec`
and their flags, the shell's own command completion goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SANDBOXES = "agentkernel list --quiet --if-running 2> /dev/null"


class Kind(Enum):
    """What follows a flag, or is an operand of a verb."""

    NONE = "nothing"
    WORD = "a word that only the user knows"
    CHOICE = "one of a list"
    FILE = "a file"
    DIRECTORY = "a directory"
    SANDBOX = "the name of a sandbox"
    PLACE = "a file, or NAME:/PATH"


class Rest(Enum):
    """What the words of a verb become at their end."""

    NONE = "nothing of their own"
    COMMAND = "a command line"
    SANDBOX_COMMAND = "a sandbox, then a command line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag."""

    names: tuple[str, ...]
    summary: str
    kind: Kind
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb; every operand is of the same kind, `values` those of a list, and `then` is what follows one of these."""

    name: str
    summary: str
    flags: tuple[Flag, ...]
    operand: Kind = Kind.NONE
    values: tuple[str, ...] = ()
    then: Kind = Kind.NONE
    rest: Rest = Rest.NONE


def quoted(text: str) -> str:
    """Text as one word of any of the shells."""
    return "'" + text.replace("'", "'\\''") + "'"
