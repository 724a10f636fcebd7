"""`agentkernel list`: the sandboxes there are."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.output import table
from agentkernel.cli.show import age, parse_labels, ports_text, print_json
from agentkernel.errors import DaemonUnavailable
from agentkernel.model.record import SandboxFilter, SandboxInfo
from agentkernel.model.status import Status
from agentkernel.text.records import sandbox_record
from agentkernel.text.style import GREEN, RED, colourful, paint, printable

HELP = """\
List the sandboxes, whatever their status.

  agentkernel list                             (also: agentkernel ls)
  agentkernel list --status running --label job=7
  agentkernel list --all                       also those of commands that `run` is running
  agentkernel list --json
  agentkernel remove $(agentkernel list -q --status stopped)
"""

_PAGE = 100  # whose descriptions mostly fit one frame
_COLOURS = {Status.RUNNING: GREEN, Status.UNAVAILABLE: RED}


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("-a", "--all", action="store_true", help="also the sandboxes of `run`")
    parser.add_argument("-l", "--label", action="append", default=[], metavar="KEY=VALUE", help="only those with this label (repeatable)")
    parser.add_argument(
        "-s", "--status", action="append", default=[], choices=[each.value for each in Status], help="only these (repeatable)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="names only")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.add_argument("--if-running", action="store_true", help=SUPPRESS)  # for completions: nothing where there is no daemon


def main(args: Namespace, context: Context) -> int:
    """Lists what matches."""
    wanted = SandboxFilter(
        labels=parse_labels(args.label),
        statuses=tuple(Status(word) for word in args.status),
        ephemeral=args.all,
        limit=_PAGE,
    )
    try:
        with context.calls("list", starts=not args.if_running) as calls:
            found = sorted(calls.sandboxes(wanted), key=lambda info: (info.created_at, info.sandbox_id))
    except DaemonUnavailable:
        if not args.if_running:
            raise
        found = []
    if args.json:
        print_json([sandbox_record(info) for info in found])
    elif args.quiet:
        sys.stdout.write("".join(f"{info.name}\n" for info in found))
    elif found:
        sys.stdout.write(_table(found, colourful(sys.stdout.isatty(), context.environment)))
    elif not args.if_running:
        sys.stderr.write("No sandboxes found.\nCreate one with: agentkernel create NAME\n")
    return 0


def _table(found: list[SandboxInfo], colours: bool) -> str:
    rows = [
        (
            info.name,
            info.status.value,
            info.backend,
            info.isolation.label,
            info.network.value,
            ports_text(info.ports),
            printable(info.image),
            age(info.created_at),
        )
        for info in found
    ]
    lines = table(("NAME", "STATUS", "BACKEND", "ISOLATION", "NETWORK", "PORTS", "IMAGE", "AGE"), rows).splitlines(keepends=True)
    start = max(len("NAME"), *(len(info.name) for info in found)) + 2
    for at, info in enumerate(found, 1):  # painted when the columns stand, for colours have no width
        status, colour = info.status.value, _COLOURS.get(info.status)
        if colours and colour is not None:
            lines[at] = lines[at][:start] + paint(status, colour, True) + lines[at][start + len(status) :]
    return "".join(lines)
