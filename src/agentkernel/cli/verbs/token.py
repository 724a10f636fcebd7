"""`agentkernel token`: who may use the HTTP API and the remote door, and for what."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.output import table
from agentkernel.cli.show import moment, print_json
from agentkernel.config.tokens import SCOPES, TokenStore
from agentkernel.errors import InvalidInput
from agentkernel.text.style import printable

HELP = """\
Tokens for `agentkernel serve`. A token is shown once, when it is made; only its digest is kept. One named `default` is made when it is
first needed, and `agentkernel config token` shows it again.

  agentkernel token create ci --scope run-only         prints it
  agentkernel token create web --scope sandbox:web     everything with that one sandbox
  agentkernel token list
  agentkernel token remove ci                          it is refused from now on, and what it has under way ends

Scopes (several may be given; default full):
{scopes}
""".format(
    scopes="\n".join(f"  {name.ljust(12)}  {text}" for name, text in {**SCOPES, "sandbox:NAME": "everything with that sandbox"}.items())
)


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("what", choices=("create", "list", "remove"), help="what to do")
    parser.add_argument("name", nargs="?", default=None, metavar="NAME", help="create, remove: which one")
    parser.add_argument("--scope", action="append", default=[], metavar="SCOPE", help="create: what it may do (repeatable); default full")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: Namespace, context: Context) -> int:
    """Does it."""
    store = TokenStore(context.environment)
    if args.what == "list":
        if args.name is not None:
            raise InvalidInput(f"`token list` takes no argument {args.name!r}")
        return _list(store, args.json)
    if args.name is None:
        raise InvalidInput("which token?", hint=f"for example: agentkernel token {args.what} ci")
    if args.what == "remove":
        store.remove(args.name)
        if args.json:
            print_json({"name": args.name, "removed": True})
        else:
            sys.stderr.write(f"removed: {args.name}\n")
        return 0
    secret = store.create(args.name, args.scope)
    if args.json:
        print_json({"name": args.name, "scopes": sorted(args.scope) or ["full"], "token": secret})
    else:
        sys.stdout.write(secret + "\n")
    return 0


def _list(store: TokenStore, as_json: bool) -> int:
    tokens = store.entries()
    if as_json:
        print_json([{"name": token.name, "scopes": sorted(token.scopes), "created_at": token.created_at} for token in tokens])
    elif tokens:
        rows = [(printable(token.name), printable(", ".join(sorted(token.scopes))), moment(token.created_at)) for token in tokens]
        sys.stdout.write(table(("NAME", "SCOPES", "CREATED"), rows))
    return 0
