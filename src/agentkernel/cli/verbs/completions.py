"""`agentkernel completions`: the completion script of a shell, made from the parsers themselves."""

from __future__ import annotations

import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Sequence

from agentkernel import assembly
from agentkernel.cli import completion
from agentkernel.cli.context import Context
from agentkernel.cli.parsing import build
from agentkernel.cli.verbs import VERBS, load
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import StorageKind
from agentkernel.policy.profiles import PROFILES

HELP = """\
Print the completion script for a shell: verbs, flags, and the values of those flags that have a list of them.

  source <(agentkernel completions bash)                          in ~/.bashrc
  agentkernel completions zsh > "${fpath[1]}/_agentkernel"        then start a new shell
  agentkernel completions fish > ~/.config/fish/completions/agentkernel.fish
"""

_SHELLS = {"bash": completion.bash, "zsh": completion.zsh, "fish": completion.fish}
_DIRECTORIES = ("--dir",)
_FILES = ("--config", "--image", "--mount")


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("shell", choices=tuple(_SHELLS), help="bash, zsh or fish")


def main(args: Namespace, context: Context) -> int:
    """Prints the script."""
    verbs = [completion.Verb(name=name, summary=summary, flags=_flags(name)) for name, (_, summary) in VERBS.items()]
    sys.stdout.write(_SHELLS[args.shell](verbs))
    return 0


def _flags(verb: str) -> tuple[completion.Flag, ...]:
    """The flags of a verb and, for its positional arguments with choices, the choices."""
    actions = build(verb, load(verb))._actions
    return tuple(_flag(action) for action in actions if action.help != "==SUPPRESS==" and (action.option_strings or action.choices))


def _flag(action: Action) -> completion.Flag:
    values = tuple(str(choice) for choice in action.choices or ()) or _values(action.option_strings)
    kind = completion.Kind.NONE if action.nargs == 0 else completion.Kind.WORD
    if values:
        kind = completion.Kind.CHOICE
    elif any(flag in action.option_strings for flag in _DIRECTORIES):
        kind = completion.Kind.DIRECTORY
    elif any(flag in action.option_strings for flag in _FILES):
        kind = completion.Kind.FILE
    return completion.Flag(names=tuple(action.option_strings), summary=(action.help or "").replace("%%", "%"), kind=kind, values=values)


def _values(names: Sequence[str]) -> tuple[str, ...]:
    if "--profile" in names:
        return tuple(PROFILES)
    if "--backend" in names:
        return tuple(assembly.BACKENDS)
    if "--min-isolation" in names:
        return tuple(level.label for level in IsolationLevel)
    if "--storage" in names:
        return tuple(kind.value for kind in StorageKind)
    return ()
