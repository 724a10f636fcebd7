"""The verbs: name, module and one line of help. A verb's module is imported when it is used, not before.

A verb's module has:

    HELP: str                                                what it does, with examples (shown by `agentkernel VERB --help`)
    def configure(parser: argparse.ArgumentParser) -> None   declares its arguments
    def main(args: argparse.Namespace, context: Context) -> int   does it and returns the exit status
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from agentkernel.cli.context import Context

VERBS: dict[str, tuple[str, str]] = {
    "run": ("agentkernel.cli.verbs.run", "run a command in a sandbox made for it"),
    "create": ("agentkernel.cli.verbs.create", "make a sandbox that lives on"),
    "start": ("agentkernel.cli.verbs.start", "start a sandbox, with the files that it has"),
    "exec": ("agentkernel.cli.verbs.exec", "run a command in a running sandbox"),
    "attach": ("agentkernel.cli.verbs.attach", "join a running command, or a shell, in a sandbox"),
    "cp": ("agentkernel.cli.verbs.cp", "copy files and directories into a sandbox and out of it"),
    "stop": ("agentkernel.cli.verbs.stop", "end everything in a sandbox and keep its files"),
    "remove": ("agentkernel.cli.verbs.remove", "remove a sandbox and its files"),
    "list": ("agentkernel.cli.verbs.list", "list the sandboxes"),
    "info": ("agentkernel.cli.verbs.info", "describe a sandbox"),
    "ps": ("agentkernel.cli.verbs.ps", "list the commands in a sandbox"),
    "logs": ("agentkernel.cli.verbs.logs", "show the output of background commands"),
    "kill": ("agentkernel.cli.verbs.kill", "signal a command in a sandbox"),
    "network": ("agentkernel.cli.verbs.network", "show and change who a sandbox may talk to, and see whom it tried to reach"),
    "ports": ("agentkernel.cli.verbs.ports", "show, publish and remove ports of a sandbox"),
    "image": ("agentkernel.cli.verbs.image", "fetch, import, build, list and remove the images that sandboxes are made of"),
    "rename": ("agentkernel.cli.verbs.rename", "give a sandbox another name"),
    "extend-ttl": ("agentkernel.cli.verbs.extend_ttl", "let a sandbox live longer, or shorter"),
    "gc": ("agentkernel.cli.verbs.gc", "remove what has expired and what belongs to nothing"),
    "audit": ("agentkernel.cli.verbs.audit", "show what was done, as JSON lines"),
    "daemon": ("agentkernel.cli.verbs.daemon", "start, stop or look at the daemon"),
    "doctor": ("agentkernel.cli.verbs.doctor", "say what this host can do, and what would make it better"),
    "backends": ("agentkernel.cli.verbs.backends", "list the isolation backends and whether they are ready"),
    "benchmark": ("agentkernel.cli.verbs.benchmark", "measure how fast the backends are here, and what they cost"),
    "setup": ("agentkernel.cli.verbs.setup", "say what is installed, what is missing and how to get it"),
    "config": ("agentkernel.cli.verbs.config", "show the settings in force and where each comes from"),
    "trust": ("agentkernel.cli.verbs.trust", "allow a project's agentkernel.toml to loosen the policy"),
    "completions": ("agentkernel.cli.verbs.completions", "print the completion script for a shell"),
}


ALIASES = {"rm": "remove", "ls": "list", "images": "image"}


class Verb(Protocol):
    """What a verb's module provides."""

    HELP: str

    def configure(self, parser: ArgumentParser) -> None:
        """Declares the verb's arguments."""
        ...

    def main(self, args: Namespace, context: Context) -> int:
        """Does it; returns the exit status."""
        ...


class Parsing(Protocol):
    """The module `agentkernel.cli.parsing`, loaded late because argparse takes longer to import than `--version` may take."""

    def parse(self, name: str, verb: Verb, argv: Sequence[str]) -> Namespace:
        """Parses a verb's arguments."""
        ...


def load(name: str) -> Verb:
    """Imports one verb of the table."""
    return cast(Verb, import_module(VERBS[name][0]))


def dispatch(name: str, argv: Sequence[str], context: Context) -> int:
    """Parses and runs one verb of the table; returns its exit status."""
    verb = load(name)
    parsing = cast(Parsing, import_module("agentkernel.cli.parsing"))
    return verb.main(parsing.parse(name, verb, argv), context)
