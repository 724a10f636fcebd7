"""`agentkernel gc`: what has expired, and what belongs to no sandbox, goes."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.show import print_json
from agentkernel.text.style import printable

HELP = """\
Remove what has expired and what belongs to no sandbox. The daemon does so by itself, only later.

  agentkernel gc --dry-run      what would be removed
  agentkernel gc
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("--json", action="store_true", help="print a JSON array of lines")


def main(args: Namespace, context: Context) -> int:
    """Prints one line for each thing."""
    with context.calls("gc") as calls:
        lines = calls.collect_garbage(dry_run=args.dry_run)
    if args.json:
        print_json(list(lines))
    else:
        sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    return 0
