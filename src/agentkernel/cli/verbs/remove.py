"""`agentkernel remove`: a sandbox and its files are gone."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.each import for_each

HELP = """\
Remove sandboxes with all their files. One that runs is refused, unless --force ends what runs in it.

  agentkernel remove box           (also: agentkernel rm box)
  agentkernel remove --force box other
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument("-f", "--force", action="store_true", help="also one that runs")
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def main(args: Namespace, context: Context) -> int:
    """Prints the name of each that it removed."""
    with context.calls("remove") as calls:
        return for_each(args.names, lambda name: calls.remove(name, force=args.force), context, as_json=args.json)
