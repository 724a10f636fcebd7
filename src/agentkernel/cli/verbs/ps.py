"""`agentkernel ps`: the commands in a sandbox."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.output import table
from agentkernel.cli.show import age, print_json
from agentkernel.model.inspection import ProcessRecord
from agentkernel.text.records import exec_text, process_record
from agentkernel.text.style import printable

HELP = """\
List the commands that were started in a running sandbox, with the ids that `attach`, `logs` and `kill` take.

  agentkernel ps box
  agentkernel ps box --all      also those that have ended and are remembered
  agentkernel ps box --json

For the processes as the sandbox sees them: agentkernel exec box ps aux
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def main(args: Namespace, context: Context) -> int:
    """Lists them, the oldest first."""
    with context.calls("ps") as calls:
        found = [record for record in calls.processes(args.name) if record.running or args.all]
    found.sort(key=lambda record: record.started_unix_ms)
    if args.json:
        print_json([process_record(record) for record in found])
        return 0
    rows = [
        (exec_text(record.exec_id), str(record.pid), _status(record), age(record.started_unix_ms / 1000), _command(record))
        for record in found
    ]
    sys.stdout.write(table(("ID", "PID", "STATUS", "AGE", "COMMAND"), rows))
    return 0


def _status(record: ProcessRecord) -> str:
    if not record.running:
        return "ended"
    return "detached" if record.detached else "attached"


def _command(record: ProcessRecord) -> str:
    return printable(shlex.join(os.fsdecode(word) for word in record.argv))
