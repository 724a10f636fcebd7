"""`agentkernel stop`: everything in a sandbox ends, its files stay."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.each import for_each

HELP = """\
Stop sandboxes: every command in them is killed, their files stay, `agentkernel start` brings them back.

  agentkernel stop box
  agentkernel stop box other
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def main(args: Namespace, context: Context) -> int:
    """Prints the name of each that it stopped."""
    with context.calls("stop") as calls:
        return for_each(args.names, calls.stopped, context, as_json=args.json)
