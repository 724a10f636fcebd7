"""The types of settings that hold several things: mounts, environment variables, files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from agentkernel.config.values import Merge, ValueType, describe, read_path, read_string
from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.model.names import suggest, validate_environment_name, validate_inside_path
from agentkernel.model.spec import Bind


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One `[[files]]` entry: a host file shown read-only at `target`."""

    source: str
    target: str
    mode: int | None = None


def _read_target(value: object) -> str:
    target = validate_inside_path(read_string(value))
    if target == "/":
        raise InvalidInput("nothing can be mounted over the sandbox's / itself")
    return target


def _read_mount(value: object, base: str) -> Bind:
    text = read_string(value)
    parts = text.split(":")
    if len(parts) not in {2, 3} or not parts[0] or (len(parts) == 3 and parts[2] not in {"ro", "rw"}):
        raise InvalidInput(f"{text!r} is not a mount", hint="write SOURCE:DESTINATION or SOURCE:DESTINATION:ro")
    return Bind(source=read_path(parts[0], base), target=_read_target(parts[1]), writable=parts[2:] != ["ro"])


def _read_mounts(value: object, base: str) -> tuple[Bind, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"wants a list, not {describe(value)}", hint='write it like ["./data:/data:ro"]')
    return tuple(_read_mount(item, base) for item in value)


def _write_mounts(value: object) -> object:
    assert isinstance(value, tuple)  # noqa: S101 - what _read_mounts gave
    return [f"{bind.source}:{bind.target}{'' if bind.writable else ':ro'}" for bind in value]


def _read_environment(value: object, _base: str) -> dict[str, str | None]:
    """A TOML table, or the texts of -e: `K=V`, or `K` (None) for the caller's own value."""
    if isinstance(value, Mapping):
        return {validate_environment_name(str(name)): None if item is None else read_string(item) for name, item in value.items()}
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"wants a table, not {describe(value)}")
    result: dict[str, str | None] = {}
    for item in value:
        name, equals, text = read_string(item).partition("=")
        result[validate_environment_name(name)] = text if equals else None
    return result


def _write_environment(value: object) -> object:
    """Names only: values may be secrets, and what is written ends on screens and in logs."""
    assert isinstance(value, Mapping)  # noqa: S101 - what _read_environment gave
    return sorted(value)


def _read_file_entry(value: object, base: str) -> FileEntry:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"wants tables, not {describe(value)}", hint='write [[files]] with source = "..." and dest = "..."')
    for name in value:
        if name not in {"source", "dest", "mode"}:
            raise UnknownKey(f"has no key {name!r}", hint=suggest(str(name), ("source", "dest", "mode")))
    if "source" not in value or "dest" not in value:
        raise InvalidInput("needs both source and dest")
    mode = None
    if "mode" in value:
        text = read_string(value["mode"])
        if not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII):
            raise InvalidInput(f"{text!r} is not a mode", hint='write it like "0644"; there is no set-user-id in a sandbox')
        mode = int(text, 8)
    return FileEntry(source=read_path(value["source"], base), target=_read_target(value["dest"]), mode=mode)


def _read_files(value: object, base: str) -> tuple[FileEntry, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"wants [[files]] tables, not {describe(value)}")
    return tuple(_read_file_entry(item, base) for item in value)


def _write_files(value: object) -> object:
    assert isinstance(value, tuple)  # noqa: S101 - what _read_files gave
    return [f"{entry.source}:{entry.target}" for entry in value]


MOUNTS = ValueType(name="list of `SOURCE:DESTINATION[:ro]`", read=_read_mounts, write=_write_mounts, merge=Merge.APPEND)
ENVIRONMENT = ValueType(name="table of strings", read=_read_environment, write=_write_environment, merge=Merge.UPDATE)
FILES = ValueType(name="tables of `source`, `dest`, `mode`", read=_read_files, write=_write_files, merge=Merge.APPEND)
