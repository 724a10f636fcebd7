"""Parses one configuration file: strictly, with the line of what is wrong."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentkernel.config.given import Given, read_value
from agentkernel.config.rawfile import RawFile
from agentkernel.config.setting import Setting
from agentkernel.config.table import BY_KEY, SETTINGS
from agentkernel.config.unsupported import UNSUPPORTED
from agentkernel.config.values import Read
from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.model.names import suggest

MAX_LINE_BYTES = 4096  # tomllib needs time quadratic in the length of a dotted key

ALIASES: Mapping[str, tuple[Setting, Read]] = {alias: (setting, read) for setting in SETTINGS for alias, read in setting.aliases.items()}
SECTIONS = frozenset(key.rsplit(".", 1)[0] for key in BY_KEY if "." in key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed configuration file."""

    path: str
    digest: str  # SHA-256 of its bytes, hexadecimal
    values: Mapping[str, Given]


def parse(raw: RawFile) -> Document:
    """Parses a file; every key must be a setting's.

    Raises:
        UnknownKey: no such key; the hint suggests the nearest one.
        InvalidInput: not TOML, a wrong value, or a key that this version does not support.
    """
    text, tree = _parse_toml(raw)
    base = os.path.dirname(raw.path)
    values: dict[str, Given] = {}
    for key, value in _leaves(tree, ()):
        name = ".".join(key)
        where = _place(raw.path, text, key)
        if name in ALIASES:
            setting, read = ALIASES[name]
        elif name in BY_KEY:
            setting, read = BY_KEY[name], BY_KEY[name].type.read
        else:
            raise _unknown(name, where)
        if setting.key in values:
            raise InvalidInput(f"{where}: {name} says again what {values[setting.key].where} says", hint=f"keep {setting.key} alone")
        values[setting.key] = Given(value=read_value(name, read, value, base=base, where=where), where=where)
    return Document(path=raw.path, digest=hashlib.sha256(raw.content).hexdigest(), values=values)


def _parse_toml(raw: RawFile) -> tuple[str, dict[str, object]]:
    for number, line in enumerate(raw.content.split(b"\n"), 1):
        if len(line) > MAX_LINE_BYTES:
            raise InvalidInput(f"{raw.path}:{number}: the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        text = raw.content.decode("utf-8")
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{raw.path} is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise InvalidInput(f"{raw.path} is nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and the limit on digits of an integer
        raise InvalidInput(f"{raw.path}: {error}", hint="see https://toml.io for the format") from None


def _leaves(tree: Mapping[str, object], prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    """The values of a document by key, in its order; tables are entered where settings lie beneath them."""
    for name, value in tree.items():
        key = (*prefix, name)
        dotted = ".".join(key)
        if isinstance(value, dict) and dotted in SECTIONS:
            yield from _leaves(value, key)
        elif isinstance(value, dict) and value and dotted not in BY_KEY and not _is_unsupported(dotted):
            yield (*key, next(iter(value))), value  # an unknown table: named with its first key, as a user sees it
        else:
            yield key, value


def _is_unsupported(name: str) -> bool:
    return any(name == other or name.startswith(other + ".") for other in UNSUPPORTED)


def _unknown(name: str, where: str) -> InvalidInput:
    if _is_unsupported(name):
        return InvalidInput(
            f"{where}: {name} is not supported by this version", hint="remove it: a rule that is not applied protects nobody"
        )
    if name in SECTIONS:
        return InvalidInput(f"{where}: {name} wants a table")
    return UnknownKey(f"{where}: there is no setting {name!r}", hint=suggest(name, [*BY_KEY, *ALIASES]))


def _place(path: str, text: str, key: tuple[str, ...]) -> str:
    """`path:line` of a key, or `path`: tomllib tells no lines, so this looks for the key as people write it."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?\s*([^\[\]]+?)\s*\]", line):
            table = _split_key(header[1])
            if table == key:
                return f"{path}:{number}"
        elif (assignment := re.match(r"\s*([^=#\[\]{}]+?)\s*=", line)) and (*table, *_split_key(assignment[1])) == key:
            return f"{path}:{number}"
    return path


def _split_key(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))
