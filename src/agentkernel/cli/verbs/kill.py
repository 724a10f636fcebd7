"""`agentkernel kill`: a command in a sandbox gets a signal."""

from __future__ import annotations

import signal
from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.each import Tally
from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.model.names import suggest
from agentkernel.text.records import exec_text, parse_exec

HELP = """\
Signal commands in a running sandbox, each with everything that it started. Prints the ids of those signalled.

  agentkernel kill box 3f2a91c05b7d8e46             SIGTERM; `agentkernel ps box` shows the ids
  agentkernel kill --signal KILL box 3f2a91c05b7d8e46
  agentkernel kill --all box                        every running command
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.usage = "agentkernel kill [--signal SIGNAL] NAME (ID... | --all)"
    parser.add_argument("name", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument("ids", nargs="*", metavar="ID", help="command, as `ps` shows it")
    parser.add_argument("-a", "--all", action="store_true", help="every running command")
    parser.add_argument("-s", "--signal", default="TERM", metavar="SIGNAL", help="name or number; default TERM")
    parser.add_argument("--json", action="store_true", help="print a JSON array of ids")


def main(args: Namespace, context: Context) -> int:
    """Signals them."""
    number = parse_signal(args.signal)
    if args.all == bool(args.ids):
        raise InvalidInput("which command?", hint="give the ids that `agentkernel ps NAME` shows, or --all")
    wanted = [parse_exec(word) for word in args.ids]
    with context.calls("kill") as calls:
        if args.all:
            wanted = [record.exec_id for record in calls.processes(args.name) if record.running]
        tally = Tally(context, as_json=args.json)
        for exec_id in wanted:
            with tally.attempt(exec_text(exec_id)):
                calls.signal(args.name, exec_id, number)
                tally.did(exec_text(exec_id), exec_text(exec_id))
            if tally.is_hopeless:
                break
    return tally.finish()


def parse_signal(text: str) -> int:
    """The number of `TERM`, `SIGTERM` or `15`."""
    if text.isascii() and text.isdigit():
        if not 1 <= int(text) <= 64:
            raise InvalidInput(f"there is no signal {text}", hint="signals are numbered from 1 to 64")
        return int(text)
    names = {each.name.removeprefix("SIG"): each.value for each in signal.Signals}
    name = text.upper().removeprefix("SIG")
    if name not in names:
        raise UnknownKey(f"there is no signal {text!r}", hint=suggest(name, names))
    return names[name]
