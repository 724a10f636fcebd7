"""What went wrong, as the JSON object that `--json` promises: for every verb the same, on stdout, where its result would be."""

from __future__ import annotations

import json
import sys
from argparse import REMAINDER, Action
from collections.abc import Sequence

from agentkernel.cli.parsing import build
from agentkernel.cli.verbs import ALIASES, VERBS, load
from agentkernel.errors import AgentKernelError

_FLAG = "--json"


def report_failure(words: Sequence[str], error: AgentKernelError) -> None:
    """Prints the object where the words of this command line, which may be wrong ones, ask for JSON."""
    if asks_for_json(words):
        print_failure(error)


def print_failure(error: AgentKernelError, **more: object) -> None:
    """One line: the exit status, and the error's code, message and hint; `more` is what was done all the same."""
    sys.stdout.write(json.dumps({"exit_code": error.exit_status, "error": error_record(error), **more}) + "\n")


def error_record(error: AgentKernelError) -> dict[str, str]:
    """An error as programs read it."""
    return {"code": error.code, "message": error.message, "hint": error.hint}


def asks_for_json(words: Sequence[str]) -> bool:
    """Whether `--json` is among the verb's own words: not behind `--`, nor one of the command that `run` and `exec` are given."""
    verb = ALIASES.get(words[0], words[0]) if words else ""
    if _FLAG not in words or verb not in VERBS:
        return False
    actions = build(verb, load(verb))._actions
    options = {flag: action for action in actions for flag in action.option_strings}
    if _FLAG not in options:
        return False
    operands = _operands(verb, actions)
    valued = False  # whether the option before has this word for its value
    for word in words[1:]:
        if word == _FLAG:
            return True
        if word.startswith("-") and word not in ("-", "--"):
            valued = word in options and options[word].nargs != 0
        elif valued:
            valued = False
        elif word == "--" or operands == 0:
            return False
        else:
            operands -= 1
    return False


def _operands(verb: str, actions: Sequence[Action]) -> int:
    """How many words that are no options may stand before the last option; -1: any number."""
    if not any(action.nargs == REMAINDER for action in actions):
        return -1
    return 1 if verb == "exec" else 0
