"""`agentkernel audit`: what was done, by whom, and what came of it."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections import deque

from agentkernel.cli.context import Context
from agentkernel.cli.show import parse_since
from agentkernel.errors import InvalidInput
from agentkernel.model.record import EventFilter
from agentkernel.text.records import event_record

HELP = """\
Show the audit trail as JSON lines, the oldest first: one for each thing done, with who did it and what came of it.

  agentkernel audit --last 20
  agentkernel audit --since 1h --sandbox box
  agentkernel audit --kind exec. --kind sandbox.removed       a kind, or all that begin so
  agentkernel audit --follow | jq -r '[(.at | todate), .kind, .sandbox] | @tsv'

Kinds are listed in docs/audit.md. Secrets are redacted before anything is recorded.
"""

_PAGE = 500


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--since", default=None, metavar="TIME", help="10m (ago), 2026-01-31T12:00:00 or @UNIX-SECONDS")
    parser.add_argument("-s", "--sandbox", default="", metavar="NAME", help="only of this sandbox, by name or id")
    parser.add_argument("--kind", action="append", default=[], metavar="KIND", help="only of this kind (repeatable)")
    parser.add_argument("--principal", default="", metavar="WHO", help="only what this user did")
    parser.add_argument("-n", "--last", type=int, default=None, metavar="NUMBER", help="only the newest")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens")
    parser.add_argument("--json", action="store_true", help="JSON lines, which is what it prints anyway")


def main(args: Namespace, context: Context) -> int:
    """Prints it."""
    if args.last is not None and (args.last < 0 or args.follow):
        raise InvalidInput("--last takes a number, and does not go with --follow", hint="for example: --last 20")
    wanted = EventFilter(since=parse_since(args.since), sandbox=args.sandbox, kinds=tuple(args.kind), principal=args.principal, limit=_PAGE)
    with context.calls("audit") as calls:
        events = calls.events(wanted, follow=args.follow)
        for event in events if args.last is None else deque(events, maxlen=args.last):
            sys.stdout.write(json.dumps(event_record(event)) + "\n")
            if args.follow:
                sys.stdout.flush()
    return 0
