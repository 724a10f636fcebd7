"""Parses the words of one verb; a mistake is one line and a hint, never a page of usage."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import NoReturn

from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.text.nearest import nearest


class Parser(ArgumentParser):
    """argparse with our errors. Flags are never abbreviated: a new flag must not change what an old command line means."""

    def __init__(self, verb: str, help_text: str = "", *, columns: int = 80) -> None:
        """`help_text` is what --help shows above the options; without one there is no --help, and nothing ever prints or exits."""

        def formatter(prog: str) -> RawDescriptionHelpFormatter:
            """Told how wide the terminal is: argparse makes one for each option, and each would ask shutil, which is slow to import."""
            return RawDescriptionHelpFormatter(prog, width=columns - 2)

        super().__init__(
            prog=f"agentkernel {verb}",
            description=help_text.strip(),
            formatter_class=formatter,
            allow_abbrev=False,
            add_help=bool(help_text),
        )
        self.verb = verb
        self.intermixes = False  # whether flags may stand between words; argparse cannot have it where the words of a command follow

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage and exiting."""
        raise InvalidInput(message, hint=f"see `agentkernel {self.verb} --help`")


def parse(parser: Parser, words: Sequence[str], into: Namespace | None = None) -> Namespace:
    """Parses a verb's words; with `into` as more words of a command line that was parsed so far.

    Raises:
        UnknownKey: a flag does not exist; the hint names the nearest one.
        InvalidInput: anything else that is wrong with them.
    """
    known = parser.parse_known_intermixed_args if parser.intermixes else parser.parse_known_args
    args, unknown = known(words, into)
    if not unknown:
        return args
    word = unknown[0].split("=", 1)[0]
    if not word.startswith("-") or word == "-":
        raise InvalidInput(f"`{parser.prog}` takes no argument {word!r}", hint=f"see `{parser.prog} --help`")
    near = nearest(word, flags(parser))
    hint = f"did you mean {near}? " if near else ""
    raise UnknownKey(f"`{parser.prog}` has no flag {word}", hint=f"{hint}`{parser.prog} --help` lists them")


def flags(parser: ArgumentParser) -> list[str]:
    """All flags that a parser knows, in the order of their declaration."""
    return [flag for action in parser._actions for flag in action.option_strings]
