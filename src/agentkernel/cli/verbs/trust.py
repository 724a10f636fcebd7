"""`agentkernel trust`: lets one project file, exactly as it is now, loosen the policy."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.output import table
from agentkernel.config.load import Settings, collect
from agentkernel.config.loosening import Loosening
from agentkernel.config.places import PROJECT_FILE, find_places
from agentkernel.config.trusted import TrustStore
from agentkernel.errors import InvalidInput, NotFound
from agentkernel.text.style import printable

HELP = """\
Allow a project file to loosen the policy: what it asks for beyond your own settings is shown first.
The trust is bound to the file's content. Any change of the file ends it.

  agentkernel trust                          ./agentkernel.toml
  agentkernel trust --yes FILE               without asking
  agentkernel trust --remove FILE            end it
  agentkernel trust --list                   all trusted files
"""


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("file", nargs="?", default=None, metavar="FILE", help=f"project file (default: ./{PROJECT_FILE})")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--remove", action="store_true", help="end the trust in FILE")
    what.add_argument("--list", action="store_true", help="list the trusted files")
    what.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: Namespace, context: Context) -> int:
    """Lists, removes or adds."""
    store = TrustStore(find_places(context.environment).trusted)
    if args.list:
        return _list(store, args.json)
    path = os.path.realpath(os.path.join(context.cwd(), args.file or PROJECT_FILE))
    if args.remove:
        if not store.remove(path):
            raise NotFound(f"{path} is not trusted", hint="`agentkernel trust --list` shows what is")
        _report(args.json, path, trusted=False, loosened=())
        return 0
    return _trust(args, context, store, path)


def _trust(args: Namespace, context: Context, store: TrustStore, path: str) -> int:
    settings = collect(cwd=context.cwd(), config_path=path, environment=context.environment, flags={})
    if settings.project is None:
        raise InvalidInput(f"{path} is in your own configuration directory", hint="your own files need no trust")
    loosened = settings.loosenings()
    if not loosened:
        _report(args.json, path, trusted=False, loosened=())
        return 0
    if not args.yes:
        _ask(settings, loosened)
    store.add(settings.project.path, settings.project.digest)  # the bytes that were shown, whatever the file holds by now
    _report(args.json, path, trusted=True, loosened=loosened)
    return 0


def _ask(settings: Settings, loosened: tuple[Loosening, ...]) -> None:
    """Shows what would change and waits for a yes; raises InvalidInput without one."""
    path = settings.project.path if settings.project is not None else ""
    sys.stderr.write(f"{printable(path)} asks for more than you allow:\n")
    rows = [(one.setting.key, _text(one, one.without), _text(one, one.value), one.where) for one in loosened]
    sys.stderr.write(table(("KEY", "WITHOUT IT", "WITH IT", "WHERE"), [tuple(map(printable, row)) for row in rows]))
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput("there is no terminal to ask on", hint="read the file; --yes trusts it without asking")
    sys.stderr.write("Trust this file as it is now? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise InvalidInput("not trusted; nothing was changed")


def _text(one: Loosening, value: object) -> str:
    """A value in full, for the user to judge: environment variables too, for they are the project's and not a secret of the user."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(name if text is None else f"{name}={text}" for name, text in value.items()) or "-"
    written = one.setting.type.write(value)
    return ", ".join(map(str, written)) or "-" if isinstance(written, list) else str(written)


def _list(store: TrustStore, as_json: bool) -> int:
    entries = store.entries()
    if as_json:
        sys.stdout.write(json.dumps([{"path": entry.path, "sha256": entry.digest} for entry in entries], indent=2) + "\n")
    elif entries:
        sys.stdout.write(table(("FILE", "SHA-256"), [(printable(entry.path), entry.digest) for entry in entries]))
    return 0


def _report(as_json: bool, path: str, *, trusted: bool, loosened: tuple[Loosening, ...]) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"file": path, "trusted": trusted, "loosens": [one.setting.key for one in loosened]}, indent=2) + "\n")
    elif trusted:
        sys.stderr.write(f"trusted as it is now: {printable(path)}\n")
    else:
        sys.stderr.write(f"{printable(path)} is not trusted, and may only tighten what you allow\n")
