"""`agentkernel ports`: which of a sandbox's ports this host lends it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.output import table
from agentkernel.cli.show import print_json
from agentkernel.errors import InvalidInput
from agentkernel.model.network import PortRule
from agentkernel.model.ports import address_text, checked_port, parse_port
from agentkernel.text.records import port_record

HELP = """\
Show the published ports of a sandbox, publish one more, or end that. A published port listens on this host's loopback, and what
connects there reaches the port inside, also in a sandbox that has no network.

  agentkernel ports box                   what is published
  agentkernel ports box 8000              port 8000 inside, at a port of this host that is free; prints where
  agentkernel ports box 8080:8000         at port 8080
  agentkernel ports box --remove 8000     ends that, and its connections
  curl "http://$(agentkernel ports box 8000)"

It holds until the sandbox stops; `agentkernel create -p 8080:8000` has it published whenever the sandbox runs.
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.usage = "agentkernel ports NAME [PORT | HOST-PORT:PORT] [--remove PORT]"
    parser.add_argument("name", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument("port", nargs="?", default=None, metavar="PORT", help="port inside to publish: 8000, or 8080:8000")
    parser.add_argument("--remove", type=_port, default=None, metavar="PORT", help="port inside that is no longer to be published")
    parser.add_argument("--json", action="store_true", help="print JSON: an array, or the port that was published")


def main(args: Namespace, context: Context) -> int:
    """Publishes, removes, or lists."""
    if args.port is not None and args.remove is not None:
        raise InvalidInput("publish a port or remove one, not both at once", hint=f"agentkernel ports {args.name} --remove {args.remove}")
    rule = None if args.port is None else parse_port(args.port)
    with context.calls("ports") as calls:
        if rule is not None:
            port = calls.published(args.name, rule)
            if args.json:
                print_json(port_record(port))
            else:
                sys.stdout.write(f"{address_text(port)}\n")
            return 0
        if args.remove is not None:
            calls.unpublish(args.name, args.remove)
        found = calls.ports(args.name)
    if args.json:
        print_json([port_record(port) for port in found])
    elif args.remove is not None:
        sys.stdout.write(f"{args.remove}\n")
    elif found:
        sys.stdout.write(table(("PORT", "ADDRESS"), [(str(port.port), address_text(port)) for port in found]))
    else:
        sys.stderr.write(f"No ports are published.\nPublish one with: agentkernel ports {args.name} PORT\n")
    return 0


def _port(word: str) -> int:
    if not word.isascii() or not word.isdecimal():
        raise InvalidInput(f"{word!r} is no port", hint="--remove takes the port inside, such as 8000")
    return checked_port(PortRule(port=int(word))).port
