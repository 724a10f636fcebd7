"""`agentkernel run`: one command in a sandbox of its own."""

from __future__ import annotations

import asyncio
import os
from argparse import REMAINDER, ArgumentParser, Namespace

from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.notices import say_new
from agentkernel.cli.report import Collector, print_error, print_outcome, say_why
from agentkernel.cli.session import STDIN, STDOUT, Job, Outcome, Sink, run
from agentkernel.cli.streams import Writer, has_input
from agentkernel.cli.terminal import terminal_size
from agentkernel.config.load import load_settings
from agentkernel.config.request import request_from_settings
from agentkernel.config.table import add_arguments, flags_given
from agentkernel.errors import AgentKernelError, InvalidInput
from agentkernel.model.command import DEFAULT_OUTPUT_LIMIT_BYTES, Command
from agentkernel.model.request import Grant

HELP = """\
Run one command in a sandbox of its own; the sandbox is gone when the command ends.

  agentkernel run python3 -c "print('hello')"
  agentkernel run npm test                              on a private copy of this project
  agentkernel run --profile restrictive python3 job.py  sees job.py, nothing else, no network
  agentkernel run --dir src -- cargo build              another directory at /workspace
  agentkernel run -e API_URL=http://x --timeout 30s make check
  make report | agentkernel run -- jq .name > name.txt  works in pipelines
  agentkernel run bash                                  an interactive shell
  agentkernel run --json -- ls -la                      the result as one JSON object

Options end at the first word that is not one: what follows is the command and its own arguments. `--` makes that plain.

Exit status: the command's own, 128+n when signal n ended it; 124 timed out, 125 agentkernel failed, 126 cannot be
executed, 127 not found, 2 wrong arguments, 130 Ctrl-C, 141 the reader of the output went away.

Notes about what the policy decided are said once per user; --quiet silences them, --json always lists them.
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the settings of the table, and what only concerns this terminal."""
    parser.usage = "agentkernel run [OPTION...] [--] COMMAND [ARGUMENT...]"
    add_arguments(parser, "run")
    terminal = parser.add_mutually_exclusive_group()
    terminal.add_argument("-t", "--tty", action="store_true", help="a terminal inside (without it: when stdin and stdout are terminals)")
    terminal.add_argument("--no-tty", action="store_true", help="no terminal inside, though stdin and stdout are one")
    parser.add_argument("-q", "--quiet", action="store_true", help="no notes about what the policy decided")
    parser.add_argument("--json", action="store_true", help="print the result, with the output in it, as one JSON object")
    parser.add_argument("command", nargs=REMAINDER, metavar="COMMAND", help="program and arguments; no shell is involved")


def main(args: Namespace, context: Context) -> int:
    """Runs it; returns what the process exits with."""
    if not args.json:
        return _run(args, context, Writer()).exit_status
    collector = Collector(DEFAULT_OUTPUT_LIMIT_BYTES)
    try:
        outcome = _run(args, context, collector)
    except AgentKernelError as error:
        print_error(error)
        raise
    print_outcome(outcome, collector)
    return outcome.exit_status


def _run(args: Namespace, context: Context, sink: Sink) -> Outcome:
    argv = _argv(args.command)
    cwd = context.cwd()
    settings = load_settings(cwd=cwd, config_path=args.config, environment=context.environment, flags=flags_given(args))
    request = request_from_settings(settings, argv=argv, cwd=cwd, environment=context.environment)
    timeout_s = settings.get("timeout") or None  # 0 is never
    in_terminal = args.tty or (os.isatty(STDIN) and os.isatty(STDOUT) and not args.no_tty and not args.json)
    command = Command(
        argv=argv,
        environment=_terminal_environment(context) if in_terminal else {},
        terminal=terminal_size() if in_terminal else None,
        stdin=has_input(STDIN),
        timeout_s=timeout_s,
    )

    def granted(grant: Grant) -> None:
        if not args.quiet and not args.json:
            say_new(grant.notices, context.state_directory(), context.environment)

    job = Job(caller=local_caller(), request=request, command=command, raw=in_terminal and os.isatty(STDIN), granted=granted)
    outcome = asyncio.run(run(context.kernel(), job, sink))
    say_why(outcome, timeout_s, context.environment)
    return outcome


def _argv(words: list[str]) -> tuple[bytes, ...]:
    argv = words[1:] if words[:1] == ["--"] else words
    if not argv:
        raise InvalidInput("there is no command to run", hint="for example: agentkernel run python3 -c 'print(1)'")
    if not argv[0]:
        raise InvalidInput("the command's name is empty", hint="a variable that is not set, perhaps?")
    return tuple(os.fsencode(word) for word in argv)


def _terminal_environment(context: Context) -> dict[bytes, bytes]:
    """Programs draw for the terminal that they are really shown on."""
    names = ("TERM", "COLORTERM")
    return {name.encode(): os.fsencode(context.environment[name]) for name in names if context.environment.get(name)}
