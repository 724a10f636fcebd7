"""`agentkernel completions`: the completion script of a shell, made from the parsers themselves."""

from __future__ import annotations

import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Sequence

from agentkernel import assembly
from agentkernel.cli.context import Context
from agentkernel.cli.parsing import build
from agentkernel.cli.shells import Flag, Kind, Rest, Verb
from agentkernel.cli.shells.bash import bash
from agentkernel.cli.shells.fish import fish
from agentkernel.cli.shells.zsh import zsh
from agentkernel.cli.verbs import VERBS, load
from agentkernel.model.image import PullPolicy
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import StorageKind
from agentkernel.policy.profiles import PROFILES

HELP = """\
Print the completion script for a shell: verbs, flags, the values of those flags that have a list of them, and
the names of sandboxes while the daemon runs.

  source <(agentkernel completions bash)                          in ~/.bashrc
  agentkernel completions zsh > "${fpath[1]}/_agentkernel"        then start a new shell
  agentkernel completions fish > ~/.config/fish/completions/agentkernel.fish
"""

_SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
_DIRECTORIES = ("--dir",)
_FILES = ("--config", "--image", "--mount")
_RESTS = {"run": Rest.COMMAND, "exec": Rest.SANDBOX_COMMAND}
_OPERANDS = {"SOURCE": Kind.PLACE, "NAME": Kind.SANDBOX}  # by the first one's metavar
_NAMES_NEW = ("create",)


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("shell", choices=tuple(_SHELLS), help="bash, zsh or fish")


def main(args: Namespace, context: Context) -> int:
    """Prints the script."""
    sys.stdout.write(_SHELLS[args.shell]([_verb(name, summary) for name, (_, summary) in VERBS.items()]))
    return 0


def _verb(name: str, summary: str) -> Verb:
    actions = [action for action in build(name, load(name))._actions if action.help != "==SUPPRESS=="]
    operands = [action for action in actions if not action.option_strings]
    values = tuple(str(choice) for action in operands for choice in action.choices or ())
    operand = Kind.CHOICE if values else Kind.NONE
    if operands and not values and name not in _NAMES_NEW:
        operand = _OPERANDS.get(str(operands[0].metavar), Kind.NONE)
    then = _OPERANDS.get(str(operands[1].metavar), Kind.NONE) if values and operands[1:] else Kind.NONE
    flags = tuple(_flag(action) for action in actions if action.option_strings)
    return Verb(name=name, summary=summary, flags=flags, operand=operand, values=values, then=then, rest=_RESTS.get(name, Rest.NONE))


def _flag(action: Action) -> Flag:
    values = tuple(str(choice) for choice in action.choices or ()) or _values(action.option_strings)
    kind = Kind.NONE if action.nargs == 0 else Kind.WORD
    if values:
        kind = Kind.CHOICE
    elif any(flag in action.option_strings for flag in _DIRECTORIES):
        kind = Kind.DIRECTORY
    elif any(flag in action.option_strings for flag in _FILES):
        kind = Kind.FILE
    elif action.metavar == "NAME" and "--sandbox" in action.option_strings:
        kind = Kind.SANDBOX
    return Flag(names=tuple(action.option_strings), summary=(action.help or "").replace("%%", "%"), kind=kind, values=values)


def _values(names: Sequence[str]) -> tuple[str, ...]:
    if "--profile" in names:
        return tuple(PROFILES)
    if "--backend" in names:
        return tuple(assembly.BACKENDS)
    if "--min-isolation" in names:
        return tuple(level.label for level in IsolationLevel)
    if "--pull" in names:
        return tuple(policy.value for policy in PullPolicy)
    if "--storage" in names:
        return tuple(kind.value for kind in StorageKind)
    return ()
