"""Command-line options made from settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from agentkernel.config.setting import Setting
from agentkernel.config.values import SWITCH, Merge


def add_options(parser: argparse.ArgumentParser, settings: Iterable[Setting]) -> None:
    """Adds the options of `settings`. An option that is not given puts nothing into the namespace."""
    for setting in settings:
        if setting.flags:
            _add(parser, setting)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, for verbs that the project's file concerns."""
    parser.add_argument("-c", "--config", default=None, metavar="FILE", help="project file to read in place of ./agentkernel.toml")


def _add(parser: argparse.ArgumentParser, setting: Setting) -> None:
    shown = setting.help.replace("%", "%%")
    if setting.type is SWITCH:
        parser.add_argument(*setting.flags, action=argparse.BooleanOptionalAction, dest=setting.key, default=argparse.SUPPRESS, help=shown)
        return
    many = setting.type.merge is not Merge.REPLACE
    parser.add_argument(
        *setting.flags,
        action="append" if many else "store",
        dest=setting.key,
        default=argparse.SUPPRESS,
        metavar=setting.metavar,
        help=shown if many else shown + _words(setting),
    )


def _words(setting: Setting) -> str:
    """The words that a setting takes, where it takes words."""
    if "`" not in setting.type.name:
        return ""
    default = f"; default {setting.default}" if isinstance(setting.default, str) else ""
    return f": {setting.type.name.removeprefix('one of ').replace('`', '')}{default}"


def option_of(setting: Setting, value: object) -> str:
    """How a value is given on the command line, for messages."""
    flags = setting.off_flags if value is False and setting.off_flags else setting.flags
    return flags[-1] if flags else setting.key
