"""Parses one verb's arguments; a mistake is one line and a hint, never a page of usage."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import NoReturn

from agentkernel.cli.suggest import nearest
from agentkernel.cli.verbs import Verb
from agentkernel.errors import InvalidInput, UnknownKey


class _HelpFormatter(RawDescriptionHelpFormatter):
    """Told how wide the terminal is: argparse makes a formatter for each option, and each would ask shutil, which is slow to import."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


class Parser(ArgumentParser):
    """argparse with our errors. Flags are never abbreviated: a new flag must not change what an old command line means."""

    def __init__(self, name: str, help_text: str) -> None:
        super().__init__(
            prog=f"agentkernel {name}",
            description=help_text.strip(),
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self._verb = name

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage and exiting."""
        raise InvalidInput(message, hint=f"see `agentkernel {self._verb} --help`")


def build(name: str, verb: Verb) -> Parser:
    """The parser of one verb; completions are made from it too."""
    parser = Parser(name, verb.HELP)
    verb.configure(parser)
    return parser


def parse(name: str, verb: Verb, argv: Sequence[str]) -> Namespace:
    """Parses a verb's arguments.

    Raises:
        UnknownKey: a flag does not exist; the hint names the nearest one.
        InvalidInput: anything else that is wrong with them.
    """
    parser = build(name, verb)
    args, unknown = parser.parse_known_args(argv)
    if not unknown:
        return args
    word = unknown[0].split("=", 1)[0]
    if not word.startswith("-") or word == "-":
        raise InvalidInput(f"`agentkernel {name}` takes no argument {word!r}", hint=f"see `agentkernel {name} --help`")
    near = nearest(word, flags(parser))
    hint = f"did you mean {near}? " if near else ""
    raise UnknownKey(f"`agentkernel {name}` has no flag {word}", hint=f"{hint}`agentkernel {name} --help` lists them")


def flags(parser: ArgumentParser) -> list[str]:
    """All flags that a parser knows, in the order of their declaration."""
    return [flag for action in parser._actions for flag in action.option_strings]


def _columns() -> int:
    """COLUMNS, else the width of the terminal at stdout, else 80."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80
