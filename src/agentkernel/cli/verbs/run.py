"""`agentkernel run`: one command in a sandbox of its own."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from collections.abc import Callable

from agentkernel.cli.caller import local_caller
from agentkernel.cli.console import console_of
from agentkernel.cli.context import Context
from agentkernel.cli.output import say
from agentkernel.cli.report import Collector, print_error, print_outcome, say_why
from agentkernel.cli.session import STDIN, Job, Outcome, Sink, run
from agentkernel.cli.streams import Writer
from agentkernel.config.invocation import Invocation, configure_run, read_run
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import DEFAULT_OUTPUT_LIMIT_BYTES
from agentkernel.model.request import Grant
from agentkernel.text.said import state_directory, unsaid

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


configure = configure_run


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
    wanted = read_run(args, console_of(context))

    def granted(grant: Grant) -> None:
        if not wanted.quiet and not wanted.json:
            for notice in unsaid(grant.notices, state_directory(context.environment)):
                say("note", notice.message, notice.hint, context.environment)

    outcome = asyncio.run(run(context.kernel(), _job(wanted, granted), sink))
    say_why(outcome, wanted.command.timeout_s, context.environment)
    return outcome


def _job(wanted: Invocation, granted: Callable[[Grant], None]) -> Job:
    assert wanted.request is not None  # noqa: S101 - what `run` asks for
    raw = wanted.command.terminal is not None and os.isatty(STDIN)
    return Job(caller=local_caller(), request=wanted.request, command=wanted.command, raw=raw, granted=granted)
