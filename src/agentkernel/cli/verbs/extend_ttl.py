"""`agentkernel extend-ttl`: when a sandbox expires."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.show import moment, print_json
from agentkernel.errors import InvalidInput
from agentkernel.text.records import sandbox_record
from agentkernel.units import parse_duration

HELP = """\
Say when a sandbox is removed by itself.

  agentkernel extend-ttl box 2h           two hours from now
  agentkernel extend-ttl box --by 1h      an hour later than it would be; one that does not expire: an hour from now
  agentkernel extend-ttl box never
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.usage = "agentkernel extend-ttl NAME (TIME | never | --by TIME)"
    parser.add_argument("name", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument("ttl", nargs="?", default=None, metavar="TIME", help="from now, such as 30m, 2h or 1d; or `never`")
    parser.add_argument("--by", default=None, metavar="TIME", help="so much later than it would be")
    parser.add_argument("--json", action="store_true", help="print the sandbox as one JSON object")


def main(args: Namespace, context: Context) -> int:
    """Prints when it expires."""
    if (args.ttl is None) == (args.by is None):
        raise InvalidInput("when does it expire?", hint="for example: agentkernel extend-ttl box 2h, or --by 1h")
    with context.calls("extend-ttl") as calls:
        if args.by is None:
            ttl_s = None if args.ttl == "never" else parse_duration(args.ttl)
        else:
            now = time.time()
            ttl_s = max(now, calls.info(args.name).expires_at or now) - now + parse_duration(args.by)
        info = calls.extended(args.name, ttl_s)
    if args.json:
        print_json(sandbox_record(info))
    else:
        sys.stdout.write(f"{info.name} {'never expires' if info.expires_at is None else 'expires ' + moment(info.expires_at)}\n")
    return 0
