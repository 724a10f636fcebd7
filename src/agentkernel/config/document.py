"""Reads one configuration file: safely, strictly, with the line of what is wrong."""

# (descriptors and O_ flags: the file is checked and read through one descriptor)

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentkernel.config.setting import Setting
from agentkernel.config.table import BY_KEY, SETTINGS
from agentkernel.config.unsupported import UNSUPPORTED
from agentkernel.config.values import Read
from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.model.names import suggest

MAX_BYTES = 1024 * 1024
MAX_LINE_BYTES = 4096  # tomllib needs time quadratic in the length of a dotted key

ALIASES: Mapping[str, tuple[Setting, Read]] = {alias: (setting, read) for setting in SETTINGS for alias, read in setting.aliases.items()}
SECTIONS = frozenset(key.rsplit(".", 1)[0] for key in BY_KEY if "." in key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A value and where it was given: `agentkernel.toml:12`, `AGENTKERNEL_MEMORY`, `--memory`."""

    value: object
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed configuration file."""

    path: str
    digest: str  # SHA-256 of its bytes, hexadecimal
    values: Mapping[str, Given]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """The bytes of a file and who controls them."""

    path: str
    content: bytes
    uid: int
    mode: int

    @property
    def digest(self) -> str:
        """SHA-256 of the content, hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


def read_raw(path: str) -> RawFile | None:
    """Reads a regular file of at most 1 MiB without following a symbolic link in its last component; None when there is none.

    The checks are made on the open descriptor, so that the file which is checked is the file which is read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidInput(f"{path} is a symbolic link", hint="name the file itself with --config") from None
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"{path} is not a regular file")
        content = b""
        while len(content) <= MAX_BYTES and (chunk := os.read(descriptor, MAX_BYTES + 1 - len(content))):
            content += chunk
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"{path} is larger than {MAX_BYTES} bytes")
    return RawFile(path=path, content=content, uid=status.st_uid, mode=status.st_mode)


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
    return Document(path=raw.path, digest=raw.digest, values=values)


def read_value(name: str, read: Read, value: object, *, base: str, where: str) -> object:
    """Reads one value; errors say which and where."""
    try:
        return read(value, base)
    except InvalidInput as error:
        raise type(error)(f"{where}: {name}: {error.message}", hint=error.hint) from None


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
