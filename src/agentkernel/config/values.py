"""The types of settings: how a value is read, from TOML or from text, and how it is written back.

`read(value, base)` takes what TOML, an environment variable or a flag gave; relative paths are taken from the directory `base`. It raises
InvalidInput with a message that the caller prefixes with the value's place.
"""

# (paths stay strings here: lexical work on values that may not exist, for contracts that carry strings)

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.model.image import PullPolicy
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.names import ARCHIVE_ENDINGS, suggest, validate_name
from agentkernel.model.spec import StorageKind
from agentkernel.units import format_duration, format_size, parse_duration, parse_size

Read = Callable[[object, str], object]
Write = Callable[[object], object]

MAX_PIDS = 4 * 1024 * 1024  # the kernel's PID_MAX_LIMIT
MAX_CPUS = 4096.0
MAX_COUNT = 100  # of sandboxes kept ready, each of which costs memory


class Merge(Enum):
    """What a higher layer does to the value of a lower one."""

    REPLACE = "replace"
    UPDATE = "update"  # tables: by name
    APPEND = "append"  # lists


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueType:
    """One type of value; `write` gives what JSON and TOML can carry."""

    name: str  # as the reference page shows it
    read: Read
    write: Write = lambda value: value
    merge: Merge = Merge.REPLACE


def read_string(value: object, _base: str = "") -> str:
    """A string without NUL."""
    if not isinstance(value, str):
        raise InvalidInput(f"wants a string, not {describe(value)}", hint="put it in quotes")
    if "\0" in value:
        raise InvalidInput("holds a NUL")
    return value


def describe(value: object) -> str:
    """A TOML value's type in a user's words."""
    names: dict[type, str] = {bool: "a switch", int: "a number", float: "a number", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(value), "a date" if "date" in type(value).__name__ else type(value).__name__)


def _read_switch(value: object, _base: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in {"true", "yes", "on", "1"}:
            return True
        if word in {"false", "no", "off", "0"}:
            return False
    raise InvalidInput(f"wants true or false, not {value!r}")


def _read_number(value: object) -> float:
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", value.strip(), re.ASCII):
            raise InvalidInput(f"{value!r} is not a number")
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"wants a number, not {describe(value)}")
    return float(value)


def _read_cpus(value: object, _base: str) -> float:
    cpus = _read_number(value)
    if not 0.01 <= cpus <= MAX_CPUS:
        raise InvalidInput(f"{cpus:g} is not between 0.01 and {MAX_CPUS:g} processors")
    return cpus


def whole(most: int) -> ValueType:
    """A whole number from 1 to `most`."""

    def read(value: object, _base: str) -> int:
        number = _read_number(value)
        if number != int(number) or not 1 <= number <= most:
            raise InvalidInput(f"{number:g} is not a whole number between 1 and {most}")
        return int(number)

    return ValueType(name="whole number", read=read)


def _read_size(value: object, _base: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidInput(f"wants a size, not {describe(value)}", hint='write it like "512MiB", or as a number of bytes')
    return _above_zero(parse_size(str(value)))


def _above_zero(amount: int) -> int:
    if amount <= 0:
        raise InvalidInput("must be above zero", hint="leave it out for what the profile gives")
    return amount


def read_mebibytes(value: object, _base: str) -> int:
    """The reference's memory_mb: a whole number of mebibytes."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"wants a number of mebibytes, not {describe(value)}")
    return _above_zero(parse_size(f"{value}MiB"))


def _read_duration(value: object, _base: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidInput(f"wants a duration, not {describe(value)}", hint='write it like "30s"')
    return parse_duration(value if isinstance(value, str) else f"{value:f}")  # 0 is legal: none, as in timeout(1)


def _read_name(value: object, _base: str) -> str:
    return validate_name(read_string(value))


def _read_user(value: object, _base: str) -> str:
    user = read_string(value)
    if not re.fullmatch(r"root|user|[0-9]{1,9}(:[0-9]{1,9})?", user, re.ASCII):
        raise InvalidInput(f"{user!r} is not a user inside the sandbox", hint="write root, user, or UID[:GID]")
    return user


def read_path(value: object, base: str) -> str:
    """An absolute path; its `..` are left alone, for only the kernel knows what a symlink before them means."""
    path = read_string(value)
    if not path:
        raise InvalidInput("is an empty path")
    if path.startswith("~"):
        raise InvalidInput(f"{path!r}: ~ is not expanded here", hint="write the whole path, or let the shell expand it")
    return os.path.join(base, path.removeprefix("./"))


def is_path_image(image: str) -> bool:
    """Whether an image is a directory or archive of this host, not a name in a registry."""
    return image.startswith(("/", ".")) or image.endswith(ARCHIVE_ENDINGS)


def _read_image(value: object, base: str) -> str:
    image = read_string(value)
    if is_path_image(image) or os.path.lexists(os.path.join(base, image)):
        return read_path(image, base)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,255}", image, re.ASCII):
        raise InvalidInput(f"{image!r} is not an image", hint="a path to a directory or tar archive, or a name like python:3.12-alpine")
    return image


def _read_storage(value: object, base: str) -> StorageKind:
    return StorageKind(str(choice(*StorageKind).read(value, base)))


def _read_pull(value: object, base: str) -> PullPolicy:
    return PullPolicy(str(choice(*PullPolicy).read(value, base)))


def _read_words(value: object, _base: str) -> tuple[str, ...]:
    """A list of words, or a text that is split as a shell would, without anything else that a shell does."""
    if isinstance(value, list):
        return tuple(read_string(item) for item in value)
    try:
        return tuple(shlex.split(read_string(value)))
    except ValueError as error:
        raise InvalidInput(f"{value!r} cannot be split into words: {error}", hint="close the quotes") from None


def _write_words(value: object) -> object:
    assert isinstance(value, tuple)  # noqa: S101 - what _read_words gave
    return list(value)


def _read_level(value: object, base: str) -> IsolationLevel:
    labels = [level.label for level in IsolationLevel]
    return IsolationLevel(labels.index(str(choice(*labels).read(value, base))))


def _write_level(value: object) -> object:
    assert isinstance(value, IsolationLevel)  # noqa: S101 - what _read_level gave
    return value.label


def choice(*words: str) -> ValueType:
    """One of a few words."""

    def read(value: object, _base: str) -> str:
        word = read_string(value)
        if word not in words:
            raise UnknownKey(f"{word!r} is not one of them", hint=suggest(word, words))
        return word

    return ValueType(name="one of " + ", ".join(f"`{word}`" for word in words), read=read)


TEXT = ValueType(name="string", read=read_string)
NAME = ValueType(name="name", read=_read_name)
USER = ValueType(name="`root`, `user` or `UID[:GID]`", read=_read_user)
SWITCH = ValueType(name="true or false", read=_read_switch)
CPUS = ValueType(name="number", read=_read_cpus)
PIDS = whole(MAX_PIDS)
COUNT = whole(MAX_COUNT)
SIZE = ValueType(name="size", read=_read_size, write=lambda value: format_size(int(str(value))))
DURATION = ValueType(name="duration", read=_read_duration, write=lambda value: format_duration(float(str(value))))
PATH = ValueType(name="path", read=read_path)
IMAGE = ValueType(name="path or name", read=_read_image)
PULL = ValueType(name="one of `missing`, `always`, `never`", read=_read_pull, write=str)
WORDS = ValueType(name="words", read=_read_words, write=_write_words)
STORAGE = ValueType(name="one of `memory`, `disk`", read=_read_storage, write=str)
LEVEL = ValueType(name="one of " + ", ".join(f"`{level.label}`" for level in IsolationLevel), read=_read_level, write=_write_level)
