"""Command-line options made from the table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NoReturn

from agentkernel.config.table import SETTINGS, Setting
from agentkernel.config.unsupported import UNSUPPORTED_FLAGS
from agentkernel.config.values import SWITCH, Merge
from agentkernel.errors import InvalidInput


class _Refused(argparse.Action):
    """An option that users of later or other versions know; ignoring it would be a lie."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> NoReturn:
        raise InvalidInput(f"{option_string} ({self.metavar}) is not part of this version", hint=f"see `{parser.prog} --help` for what is")


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """Adds the options of all settings that `verb` takes, `--config`, and the refused ones.

    Nothing is put into the namespace for an option that is not given; `flags_given` reads the others back.
    """
    for setting in SETTINGS:
        if verb in setting.verbs and setting.flags:
            _add(parser, setting)
    parser.add_argument("-c", "--config", default=None, metavar="FILE", help="project file to read in place of ./agentkernel.toml")
    for names, what in UNSUPPORTED_FLAGS.items():
        parser.add_argument(*names, action=_Refused, nargs="?", default=argparse.SUPPRESS, metavar=what, help=argparse.SUPPRESS)


def _add(parser: argparse.ArgumentParser, setting: Setting) -> None:
    shown = setting.help.replace("%", "%%")
    if setting.type is SWITCH:
        parser.add_argument(
            *setting.flags, action="store_const", const=True, dest=setting.key, default=argparse.SUPPRESS, help=f"with {shown}"
        )
        parser.add_argument(
            *setting.off_flags, action="store_const", const=False, dest=setting.key, default=argparse.SUPPRESS, help=f"without {shown}"
        )
        return
    many = setting.type.merge is not Merge.REPLACE
    parser.add_argument(
        *setting.flags,
        action="append" if many else "store",
        dest=setting.key,
        default=argparse.SUPPRESS,
        metavar=setting.metavar,
        help=shown,
    )


def flags_given(arguments: argparse.Namespace) -> Mapping[str, object]:
    """The settings among parsed arguments, by key, as `load_settings` takes them."""
    given = vars(arguments)
    return {setting.key: given[setting.key] for setting in SETTINGS if setting.key in given}


def option_of(setting: Setting, value: object) -> str:
    """How a value was given on the command line, for messages."""
    flags = setting.off_flags if value is False and setting.off_flags else setting.flags
    name = flags[-1] if flags else setting.key
    return name
