"""`agentkernel attach`: a running command's terminal or streams, or a shell that can be left and joined again."""

from __future__ import annotations

import asyncio
import os
from argparse import ArgumentParser, Namespace

from agentkernel.cli.attachment import Attachment, choose, parse_keys
from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.output import say
from agentkernel.cli.terminal import terminal_size
from agentkernel.config.request import given_environment
from agentkernel.config.table import BY_KEY
from agentkernel.errors import InvalidInput
from agentkernel.model.command import Command
from agentkernel.text.records import exec_text, parse_exec

HELP = """\
Join a command that runs in a sandbox: its output from what is still kept, your keys to it. Without ID the newest one. Where nothing
runs, or with --shell, a shell is started.

  agentkernel attach box                            Ctrl-P Ctrl-Q leaves, and the command goes on
  agentkernel attach box 3f2a91c05b7d8e46           `agentkernel ps box` shows the ids
  agentkernel attach --shell -e DEBUG=1 box         a new shell
  agentkernel attach --no-stdin box                 only look

A command that was not detached ends when the last one who is attached leaves.
Exit status: the command's; 0 after Ctrl-P Ctrl-Q.
"""

_SHELL = (b"sh", b"-c", b"command -v bash > /dev/null && exec bash; exec sh")


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.usage = "agentkernel attach [OPTION...] NAME [ID]"
    parser.add_argument("name", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument("id", nargs="?", default=None, metavar="ID", help="command, as `ps` shows it")
    parser.add_argument("--shell", action="store_true", help="a new shell, whatever else runs")
    environment = BY_KEY["environment"]
    parser.add_argument(*environment.flags, action="append", default=[], metavar=environment.metavar, help="variable of a new shell")
    parser.add_argument("--detach-keys", default="ctrl-p,ctrl-q", metavar="KEYS", help="what leaves; default ctrl-p,ctrl-q; empty: nothing")
    parser.add_argument("--no-stdin", action="store_true", help="pass no input on")


def main(args: Namespace, context: Context) -> int:
    """Joins it until it ends or is left."""
    if args.id is not None and (args.shell or args.env):
        raise InvalidInput("an ID names a command that runs, and --shell and -e are for a new one", hint="leave the ID out")
    wanted = None if args.id is None else parse_exec(args.id)
    environment = given_environment(BY_KEY["environment"].type.read(args.env, ""), context.environment)  # type: ignore[arg-type]
    keys = parse_keys(args.detach_keys)
    with context.calls("attach") as calls:
        calls.connect()
        records = [record for record in calls.processes(args.name) if record.running]
    found = None if args.shell or args.env else choose(records, wanted)
    in_terminal = os.isatty(0) and os.isatty(1)
    attachment = Attachment(
        name=args.name,
        exec_id=None if found is None else found.exec_id,
        shell=Command(
            argv=_SHELL,
            environment={os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
            | {name.encode(): os.fsencode(context.environment[name]) for name in ("TERM", "COLORTERM") if context.environment.get(name)},
            terminal=terminal_size() if in_terminal else None,
            stdin=not args.no_stdin,
            detached=True,
        ),
        keys=keys if found is None or found.detached else b"",
        feeds=not args.no_stdin,
        raw=in_terminal and not args.no_stdin and (found is None or found.terminal),
        follows_size=os.isatty(1) and (found is None or found.terminal),
    )
    left, status = asyncio.run(attachment.run(context.client(), local_caller()))
    if left:
        say("note", f"{exec_text(left)} goes on", f"agentkernel attach {args.name} {exec_text(left)}", context.environment)
    return status
