"""`agentkernel start`: a stopped sandbox runs again, with its files."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.each import for_each
from agentkernel.cli.output import say
from agentkernel.config.invocation import check_backend
from agentkernel.config.secrets import read_given, read_values
from agentkernel.model.record import SandboxInfo
from agentkernel.text.network import listening

HELP = """\
Start sandboxes, with the files that they had when they were stopped. One that runs is left as it is.

  agentkernel start box
  agentkernel start box other
  agentkernel start box --secret API_KEY=ENV:MY_KEY     the value of a secret again, which only a daemon's memory holds
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="sandbox, by name or id")
    parser.add_argument("-B", "--backend", default=None, metavar="NAME", help="the backend that it must be of; it cannot be changed")
    parser.add_argument(
        "-S", "--secret", action="append", default=[], metavar="NAME[=ENV:VARIABLE]", help="value of a secret that it has (repeatable)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def main(args: Namespace, context: Context) -> int:
    """Prints the name of each that it started."""
    values = _values(args.secret, context)
    with context.calls("start") as calls:

        def start(name: str) -> SandboxInfo:
            if args.backend is not None:
                check_backend(args.backend, calls.info(name).backend, name)
            info = calls.started(name, values)
            for notice in map(listening, () if args.json else info.ports):
                say("note", notice.message, notice.hint, context.environment)
            return info

        return for_each(args.names, start, context, as_json=args.json)


def _values(texts: list[str], context: Context) -> dict[str, str]:
    """What `--secret` names; says where others may read it, too."""
    if not texts:
        return {}
    values, notices = read_values(read_given(texts, context.cwd()), context.environment)
    for notice in notices:
        say("warning", notice.message, notice.hint, context.environment)
    return values
