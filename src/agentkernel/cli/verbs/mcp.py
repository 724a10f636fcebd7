"""`agentkernel mcp`: sandboxes as tools of a language model."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.extra import load
from agentkernel.config.arguments import add_options
from agentkernel.config.load import users_settings
from agentkernel.config.setting import MAKES_SANDBOX
from agentkernel.config.table import SETTINGS, flags_given
from agentkernel.config.tokens import TokenStore

if TYPE_CHECKING:
    from agentkernel.mcp.desk import Operator

HELP = """\
Serve the Model Context Protocol: a language model gets sandboxes as tools, within what your settings allow. It may ask for less than they
give (a tighter profile, no network, smaller limits), never for more; it sees no directory of yours but the one that --dir names.

  agentkernel mcp                                          for a client that starts it and talks to it on stdin and stdout
  agentkernel mcp --dir . --profile restrictive            with a private copy of this directory at /workspace
  agentkernel mcp --share dev                              it may use your sandbox `dev`; with --may manage-shared stop and remove it
  agentkernel mcp --may publish                            it may publish ports of its sandboxes on this host's loopback
  agentkernel mcp --http                                   at http://127.0.0.1:18889/mcp, with the token of `agentkernel config token`

In a client's configuration: {"mcpServers": {"agentkernel": {"command": "agentkernel", "args": ["mcp"]}}}. See docs/mcp.md.
"""

DEFAULT_PORT = 18889
_NOT_HERE = ("sandbox.name", "sandbox.entrypoint", "daemon")  # settings of a single run
_EXTRA, _EXTRA_HTTP = "mcp", "api"


def configure(parser: ArgumentParser) -> None:
    """Declares the settings of the table, and what a server has beyond them."""
    parser.usage = "agentkernel mcp [OPTION...]"
    parser.add_argument("--http", action="store_true", help="listen, in place of talking on stdin and stdout")
    parser.add_argument(
        "--host", dest="address", default="127.0.0.1", metavar="ADDRESS", help="with --http: where to listen; default 127.0.0.1"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, metavar="PORT", help="with --http: default 18889; 0 is a free one")
    parser.add_argument("--hostname", action="append", default=[], metavar="NAME", help="with --http: a name that clients use (repeatable)")
    parser.add_argument("--share", action="append", default=[], metavar="SANDBOX", help="sandbox that the model may use, too (repeatable)")
    parser.add_argument(
        "--may",
        action="append",
        default=[],
        choices=("publish", "allow-hosts", "manage-shared"),
        help="let the model publish ports on this host's loopback, let its sandboxes talk to more hosts, or stop, remove and change those "
        "that are shared with it (repeatable)",
    )
    add_options(parser, [each for each in SETTINGS if each.verbs & MAKES_SANDBOX and each.key not in _NOT_HERE])


def main(args: Namespace, context: Context) -> int:
    """Serves until it is asked to end."""
    desk = load("agentkernel.mcp.desk", _EXTRA)
    settings = users_settings(cwd=context.cwd(), environment=context.environment, flags=flags_given(args))
    operator = desk.Operator(settings=settings, environment=context.environment, shared=frozenset(args.share), grants=frozenset(args.may))
    desk.check(operator)
    if args.http:
        _listen(args, context, operator)
    else:
        own = desk.Desk(kernel=context.any_kernel(), caller=local_caller(), operator=operator)
        asyncio.run(load("agentkernel.mcp.stdio", _EXTRA).serve(own))
    return 0


def _listen(args: Namespace, context: Context, operator: Operator) -> None:
    http = load("agentkernel.mcp.http", _EXTRA)
    sockets, bounds, protocol = (load(f"agentkernel.api.{name}", _EXTRA_HTTP) for name in ("listening", "limits", "protocol"))
    tokens = TokenStore(context.environment)
    tokens.default()
    with sockets.at_address(args.address, args.port) as listener:
        listening = http.Listening(
            names=(*sorted(sockets.names_of(listener)), *args.hostname),
            tokens=tokens,
            doors=context.doors(),
            is_shared=context.tunnel() is None,
            principal=local_caller().principal,
            operator=operator,
        )
        url = f"{sockets.url_of(listener, 'http')}{http.PATH}"
        asyncio.run(http.serve(listening, listener, protocol.guarded(bounds.Limits(), local=False), lambda: _tell(url)))


def _tell(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
