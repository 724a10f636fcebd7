"""A value as one place gives it: a file, a variable or a flag."""

from __future__ import annotations

from dataclasses import dataclass

from agentkernel.config.values import Read
from agentkernel.errors import InvalidInput, Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A value and where it was given: `agentkernel.toml:12`, `AGENTKERNEL_MEMORY`, `--memory`."""

    value: object
    where: str


def read_value(name: str, read: Read, value: object, *, base: str, where: str) -> object:
    """Reads one value; errors say which and where."""
    try:
        return read(value, base)
    except (InvalidInput, Refused) as error:
        raise type(error)(f"{where}: {name}: {error.message}", hint=error.hint) from None
