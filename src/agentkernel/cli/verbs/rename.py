"""`agentkernel rename`: a sandbox gets another name."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.show import print_json
from agentkernel.text.records import sandbox_record

HELP = """\
Give a sandbox another name. Its id stays, and so does what runs in it.

  agentkernel rename box build-box
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument("new_name", metavar="NEW-NAME", help="what it is called from now on")
    parser.add_argument("--json", action="store_true", help="print the sandbox as one JSON object")


def main(args: Namespace, context: Context) -> int:
    """Prints the new name."""
    with context.calls("rename") as calls:
        info = calls.renamed(args.name, args.new_name)
    if args.json:
        print_json(sandbox_record(info))
    else:
        sys.stdout.write(f"{info.name}\n")
    return 0
