"""`agentkernel logs`: the output of commands that nobody was attached to."""

from __future__ import annotations

import base64
import json
import sys
from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.output import say
from agentkernel.cli.show import exec_text, parse_exec, parse_since
from agentkernel.cli.streams import write_all
from agentkernel.model.record import LogEntry

HELP = """\
Show the recorded output of detached commands (`exec -d`): stdout on stdout, stderr on stderr, as it was.

  agentkernel logs box
  agentkernel logs -f box                           and what comes, until Ctrl-C
  agentkernel logs --exec 3f2a91c05b7d8e46 box      of one command
  agentkernel logs --since 10m box                  also: 2026-01-31T12:00:00, @UNIX-SECONDS
  agentkernel logs --json box                       JSON lines with time, command and stream
"""

_STREAMS = {1: "stdout", 2: "stderr"}


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    parser.add_argument("--since", default=None, metavar="TIME", help="only what was written since then")
    parser.add_argument("--exec", default=None, metavar="ID", help="only of this command, as `ps` shows it")
    parser.add_argument("--json", action="store_true", help="print JSON lines")


def main(args: Namespace, context: Context) -> int:
    """Writes it piece by piece."""
    exec_id = 0 if args.exec is None else parse_exec(args.exec)
    with context.calls("logs") as calls:
        for entry in calls.logs(args.name, exec_id=exec_id, since=parse_since(args.since), follow=args.follow):
            if args.json:
                sys.stdout.write(json.dumps(_record(entry)) + "\n")
                sys.stdout.flush()
            elif entry.missing:
                of_what = f"{_STREAMS[entry.stream]} of {exec_text(entry.exec_id)}"
                say("note", f"{entry.missing:,} bytes of {of_what} are missing here: they were not recorded", "", context.environment)
            else:
                write_all(entry.stream, entry.data)
    return 0


def _record(entry: LogEntry) -> dict[str, object]:
    record: dict[str, object] = {
        "at": entry.at,
        "exec_id": exec_text(entry.exec_id),
        "stream": _STREAMS[entry.stream],
    }
    if entry.missing:
        return record | {"missing": entry.missing}
    try:
        return record | {"data": entry.data.decode(), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return record | {"data": base64.b64encode(entry.data).decode(), "encoding": "base64"}
