"""`agentkernel serve`: the HTTP API."""

from __future__ import annotations

import ipaddress
import logging
import os
import resource
import shlex
import sys
from argparse import ArgumentParser, Namespace
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from socket import socket
from typing import Any

from agentkernel import __version__
from agentkernel.cli import extra
from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.show import print_json
from agentkernel.config.tokens import TokenStore
from agentkernel.errors import InvalidInput

HELP = """\
Serve the HTTP API until it is ended (SIGTERM or Ctrl-C; requests under way have ten seconds to end). What it does the daemon does, so that
sandboxes outlive it. docs/http-api.md describes the routes, as does /openapi.json.

  agentkernel serve                                  at http://127.0.0.1:18888, with the token of `agentkernel config token`
  agentkernel serve --port 8080
  agentkernel serve --unix /run/user/1000/ak.sock    for this user alone; needs no token: curl --unix-socket PATH http://localhost/health
  agentkernel serve --host 0.0.0.0 --hostname ci.example.com --tls-cert cert.pem --tls-key key.pem

  curl -X POST localhost:18888/run -H "Authorization: Bearer $(agentkernel config token)" \\
       -H "Content-Type: application/json" -d '{"command":["python3","-c","print(1+1)"],"profile":"restrictive"}'

`agentkernel token create NAME --scope SCOPE` makes tokens that may do less: run-only, read-only, sandbox:NAME. Over TCP no token may name
files of this host but one with the scope `host`. Pages in a browser are refused, unless --origin names theirs.
"""

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 18888
MAX_RATE = 1_000_000
_EXTRA = "api"
_EXAMPLE = '{"command":["python3","-c","print(1+1)"]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """What the operator lets clients call this server, and whose pages may ask it."""

    hosts: frozenset[str]
    origins: frozenset[str]


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--host", default=None, metavar="ADDRESS", help="where to listen; default 127.0.0.1, this machine alone")
    parser.add_argument("--port", type=int, default=None, metavar="PORT", help=f"default {DEFAULT_PORT}; 0 is a free one")
    parser.add_argument("--unix", default=None, metavar="PATH", help="listen on a unix socket instead, which only this user can open")
    parser.add_argument("--no-token", action="store_true", help="take requests without a token; only where this machine alone can connect")
    parser.add_argument("--hostname", action="append", default=[], metavar="NAME", help="a name that clients use (repeatable)")
    parser.add_argument("--origin", action="append", default=[], metavar="ORIGIN", help="let the pages of https://NAME use it (repeatable)")
    parser.add_argument("--tls-cert", default=None, metavar="FILE", help="serve HTTPS with this certificate (PEM, with its chain)")
    parser.add_argument("--tls-key", default=None, metavar="FILE", help="and this key")
    parser.add_argument(
        "--rate", type=float, default=None, metavar="N", help="requests a second that a token may send; default 1000, 0: any"
    )
    parser.add_argument("--verbose", action="store_true", help="write one line for each request to stderr")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: Namespace, context: Context) -> int:
    """Serves until it is asked to end."""
    names = _Names(hosts=frozenset(map(_hostname, args.hostname)), origins=frozenset(map(_origin, args.origin)))
    _check_certificate(args)
    _check_rate(args.rate)
    serving = extra.load("agentkernel.api.serve", _EXTRA)
    listening = extra.load("agentkernel.api.listening", _EXTRA)
    certificate = None if args.tls_cert is None else serving.Certificate(certificate=args.tls_cert, key=args.tls_key)
    with _listener(args, context, listening) as listener:
        tokens = _tokens(args, context, listening, listener)
        if certificate is None and not (listening.is_unix(listener) or listening.is_loopback(listener)):
            sys.stderr.write("warning: without TLS (--tls-cert, --tls-key) whoever is on the way reads tokens, commands and files\n")
        parts = _parts(args, context, names, listener, tokens)
        url = listening.url_of(listener, "http" if certificate is None else "https")
        secret, is_new = ("", False) if tokens is None else tokens.default()
        _prepare()
        serving.serve(parts, listener, lambda: _tell(args, url, secret if is_new else "", tokens is not None), certificate)
    return 0


def _listener(args: Namespace, context: Context, listening: Any) -> AbstractContextManager[socket]:
    if args.unix is not None and (args.host is not None or args.port is not None):
        raise InvalidInput("--unix listens on a path alone, not at --host and --port", hint="start a server for each of the two")
    given: socket | None = listening.passed(context.environment)
    if given is not None:
        return closing(given)
    opened: AbstractContextManager[socket]
    if args.unix is not None:
        opened = listening.at_path(os.path.join(context.cwd(), args.unix))
    else:
        opened = listening.at_address(args.host or DEFAULT_HOST, DEFAULT_PORT if args.port is None else args.port)
    return opened


def _tokens(args: Namespace, context: Context, listening: Any, listener: socket) -> TokenStore | None:
    """Where requests need a token, the tokens."""
    if listening.is_unix(listener):
        return None
    if not args.no_token:
        return TokenStore(context.environment)
    if not listening.is_loopback(listener):
        raise InvalidInput("--no-token is for this machine alone", hint="leave out --host, or use a token")
    sys.stderr.write("warning: without a token every user and every program of this machine may use your sandboxes\n")
    return None


def _parts(args: Namespace, context: Context, names: _Names, listener: socket, tokens: TokenStore | None) -> Any:
    guards, bounds = extra.load("agentkernel.api.guards", _EXTRA), extra.load("agentkernel.api.limits", _EXTRA).Limits()
    listening = extra.load("agentkernel.api.listening", _EXTRA)
    is_unix = listening.is_unix(listener)
    hosts = guards.LOOPBACK | listening.names_of(listener) | names.hosts
    if listening.is_everywhere(listener):
        hosts |= {guards.ANY_ADDRESS}
    return extra.load("agentkernel.api.parts", _EXTRA).Parts(
        doors=context.doors(),
        caller=local_caller() if is_unix else replace(local_caller(), remote=True, vouched=True),
        version=__version__,
        environment=context.environment,
        tokens=tokens,
        hosts=None if is_unix else frozenset(hosts),
        origins=names.origins,
        tunnel=context.tunnel(),
        limits=bounds if args.rate is None else replace(bounds, rate=args.rate, burst=max(1, int(2 * args.rate))),
        log=_log if args.verbose else None,
    )


def _hostname(name: str) -> str:
    """A name as a Host header says it; raises InvalidInput for one with a port or a scheme."""
    try:
        return str(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        if not name or any(character in name for character in "/:@ *"):
            raise InvalidInput(f"{name!r} is not the name of a host", hint="for example: --hostname ci.example.com") from None
        return name.lower().removesuffix(".")


def _origin(origin: str) -> str:
    """An origin as a browser says it; raises InvalidInput for what cannot be one."""
    scheme, separator, rest = origin.lower().partition("://")
    if scheme not in ("http", "https") or not separator or not rest or "/" in rest or "*" in rest:
        raise InvalidInput(f"{origin!r} is not an origin", hint="for example: --origin https://app.example.com")
    return origin.lower()


def _check_rate(rate: float | None) -> None:
    """Raises InvalidInput for a rate that is none."""
    if rate is not None and not 0 <= rate <= MAX_RATE:
        raise InvalidInput(f"--rate takes requests a second, 0 to {MAX_RATE}, not {rate:g}", hint="0 is no bound")


def _check_certificate(args: Namespace) -> None:
    """Raises InvalidInput for a certificate without its key, or one that cannot be read."""
    if (args.tls_cert is None) != (args.tls_key is None):
        raise InvalidInput("--tls-cert and --tls-key belong together")
    for path in (args.tls_cert, args.tls_key):
        if path is not None and not os.access(path, os.R_OK):
            raise InvalidInput(f"cannot read {path}")


def _prepare() -> None:
    """Tokens and output of commands are in this memory, and go into no file; and each client takes a descriptor."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")


def _tell(args: Namespace, url: str, new_token: str, needs_token: bool) -> None:
    """Where it listens and, over TCP, the whole command that uses it; a token is shown when it was made just now, and never again."""
    if args.json:
        print_json({"url": url, "pid": os.getpid(), "token": new_token or None, "needs_token": needs_token})
    else:
        sys.stdout.write(f"{url}\n")
        if not url.startswith("unix:"):
            bearer = f'-H "Authorization: Bearer {new_token or "$(agentkernel config token)"}" ' if needs_token else ""
            body = f'-H "Content-Type: application/json" -d {shlex.quote(_EXAMPLE)}'
            sys.stdout.write(f"curl -X POST {url}/run {bearer}{body}\n")
    sys.stdout.flush()


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")
