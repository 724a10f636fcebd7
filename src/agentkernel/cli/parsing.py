"""The parser of a verb of this command line."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence

from agentkernel.cli.verbs import Verb
from agentkernel.config import parsing


def build(name: str, verb: Verb) -> parsing.Parser:
    """The parser of one verb; completions are made from it too."""
    parser = parsing.Parser(name, verb.HELP, columns=_columns())
    verb.configure(parser)
    return parser


def parse(name: str, verb: Verb, words: Sequence[str]) -> Namespace:
    """Parses a verb's arguments; see `config.parsing.parse`."""
    return parsing.parse(build(name, verb), words)


def _columns() -> int:
    """COLUMNS, else the width of the terminal at stdout, else 80."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80
