"""`agentkernel exec`: a command in a sandbox that runs."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace

from agentkernel.abc import Kernel
from agentkernel.cli.caller import local_caller
from agentkernel.cli.console import console_of
from agentkernel.cli.context import Context
from agentkernel.cli.execute import execute
from agentkernel.cli.place import lasting
from agentkernel.cli.show import print_json
from agentkernel.config.invocation import Invocation, configure_exec, read_exec
from agentkernel.errors import DaemonUnavailable
from agentkernel.text.records import exec_text

HELP = """\
Run a command in a running sandbox, beside whatever runs there.

  agentkernel exec box ls -l
  agentkernel exec -w /srv -e DEBUG=1 box make test
  agentkernel exec box bash                             an interactive shell
  tar c src | agentkernel exec box tar x -C /tmp        works in pipelines
  agentkernel exec -d box python3 server.py             in the background; prints an id
  agentkernel exec --timeout 30s --user root box id
  agentkernel exec --json box uname -a                  the result as one JSON object

Options stand before the sandbox's name or behind it, and end where the command begins. With -d the command has no input; its output
is recorded for `agentkernel logs`, and `agentkernel attach` joins it.

Exit status: as of `agentkernel run`. A sandbox that does not run is an error: agentkernel start NAME
"""

configure = configure_exec


def main(args: Namespace, context: Context) -> int:
    """Runs it; returns what the process exits with."""
    wanted = read_exec(args, console_of(context))
    if not wanted.daemon:
        raise DaemonUnavailable("`agentkernel exec` needs the daemon, which keeps sandboxes", hint="leave --no-daemon out")
    with context.calls("exec") as calls:
        calls.connect()
    if not wanted.command.detached:
        return execute(wanted, lasting(wanted.sandbox, wanted.backend), context, context.client())
    exec_id = asyncio.run(_detached(context.client(), wanted))
    if args.json:
        print_json({"sandbox": wanted.sandbox, "exec_id": exec_text(exec_id)})
    else:
        sys.stdout.write(f"{exec_text(exec_id)}\n")
    return 0


async def _detached(kernel: Kernel, wanted: Invocation) -> int:
    try:
        async with lasting(wanted.sandbox, wanted.backend)(kernel, local_caller()) as (sandbox, _):
            return (await sandbox.start(wanted.command)).exec_id
    finally:
        await kernel.close()
