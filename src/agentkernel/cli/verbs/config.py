"""`agentkernel config`: what is in force, where it comes from, and whether a file is right."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace

from agentkernel.cli.context import Context
from agentkernel.cli.output import table
from agentkernel.config.load import Settings, collect
from agentkernel.config.places import PROJECT_FILE
from agentkernel.config.setting import Setting
from agentkernel.config.table import BY_KEY, SETTINGS
from agentkernel.config.tokens import DEFAULT, TokenStore
from agentkernel.errors import InvalidInput
from agentkernel.text.style import printable

HELP = """\
Show the settings in force and where each comes from.

  agentkernel config [show] [--json]         every setting, its value and its origin
  agentkernel config explain KEY             what each place says about one setting, the last one wins
  agentkernel config check [FILE]            whether a project file (./agentkernel.toml) is right, and what it would loosen
  agentkernel config token                   the token named `default` of the HTTP API, made when there is none yet

Values of environment variables are not shown: they may be secrets. docs/configuration.md lists all settings.

Exit status: 0, 2 when a file, variable or key is wrong, 125 when a project file needs trust.
"""

NEEDS_TRUST = 125


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("-c", "--config", default=None, metavar="FILE", help="project file to read in place of ./agentkernel.toml")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "what",
        nargs="?",
        default="show",
        choices=("show", "explain", "check", "token"),
        help="every setting in force; one setting; a project file; a token",
    )
    parser.add_argument("name", nargs="?", default=None, metavar="KEY|FILE", help=f"explain: a setting; check: default ./{PROJECT_FILE}")


def main(args: Namespace, context: Context) -> int:
    """Reads the settings without asking whether the project's file is trusted; says so where it matters."""
    if args.what == "explain" and args.name is None:
        raise InvalidInput("which setting?", hint="for example: agentkernel config explain security.network")
    if args.what in ("show", "token") and args.name is not None:
        raise InvalidInput(f"`config {args.what}` takes no argument {args.name!r}", hint=f"perhaps: agentkernel config explain {args.name}")
    if args.what == "token":
        return _token(context, args.json)
    path = (args.name or args.config or PROJECT_FILE) if args.what == "check" else args.config
    settings = collect(cwd=context.cwd(), config_path=path, environment=context.environment, flags={})
    if args.what == "explain":
        return _explain(settings, args.name, args.json)
    return _check(settings, args.json) if args.what == "check" else _show(settings, args.json)


def _token(context: Context, as_json: bool) -> int:
    secret, _ = TokenStore(context.environment).default()
    if as_json:
        _print_json({"name": DEFAULT, "token": secret})
    else:
        sys.stdout.write(secret + "\n")
    return 0


def _show(settings: Settings, as_json: bool) -> int:
    rows = []
    for setting in SETTINGS:
        origin = settings.origin(setting.key)
        value = settings.get(setting.key)
        rows.append((setting.key, None if value is None else setting.type.write(value), str(origin.kind), origin.where))
    if as_json:
        _print_json([dict(zip(("key", "value", "origin", "where"), row, strict=True)) for row in rows])
    else:
        shown = [(key, _text(BY_KEY[key], value), where or kind) for key, value, kind, where in rows]
        sys.stdout.write(table(("KEY", "VALUE", "FROM"), shown))
    _warn(settings)
    return 0


def _explain(settings: Settings, key: str, as_json: bool) -> int:
    said = settings.explain(key)
    setting = BY_KEY[key]
    rows = [(str(origin.kind), None if value is None else setting.type.write(value), origin.where) for origin, value in said]
    if as_json:
        places = [dict(zip(("origin", "value", "where"), row, strict=True)) for row in rows]
        _print_json({"key": key, "help": setting.help, "places": places})
        return 0
    sys.stdout.write(f"{key}: {setting.help}\n")
    sys.stdout.write(table(("FROM", "VALUE", "WHERE"), [(kind, _text(setting, value), where) for kind, value, where in rows]))
    _warn(settings)
    return 0


def _check(settings: Settings, as_json: bool) -> int:
    loosened = settings.loosenings()
    if as_json:
        path = settings.project.path if settings.project is not None else ""
        loosens = [{"key": one.setting.key, "where": one.where} for one in loosened]
        _print_json({"file": path, "valid": True, "trusted": settings.trusted, "loosens": loosens})
    elif not loosened:
        sys.stdout.write("right, and needs no trust\n")
    else:
        keys = ", ".join(one.setting.key for one in loosened)
        sys.stdout.write(f"right; loosens {keys}: {'trusted' if settings.trusted else 'not trusted'}\n")
    return NEEDS_TRUST if loosened and not settings.trusted else 0


def _warn(settings: Settings) -> None:
    if settings.project is not None and not settings.trusted and settings.loosenings():
        sys.stderr.write(f"note: {printable(settings.project.path)} needs trust before it is used: agentkernel trust\n")


def _text(setting: Setting, value: object) -> str:
    """A value for people; None is whoever decides in its place."""
    if value is None:
        return "(profile)" if setting.key.startswith(("security.", "resources.")) else "-"
    if isinstance(value, list):
        return printable(", ".join(str(item) for item in value)) or "-"
    return str(value).lower() if isinstance(value, bool) else printable(str(value))


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
