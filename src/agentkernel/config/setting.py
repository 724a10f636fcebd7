"""What the table of settings says about each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentkernel.config.tighten import Rule
from agentkernel.config.values import Read, ValueType

MAKES_SANDBOX = frozenset({"run", "create"})  # verbs


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting.

    `default` None means that the profile (or the backend) decides. `flags` switch it on or take a value, `off_flags` switch it off.
    `project` says which values a project file may give without being trusted.
    """

    key: str
    type: ValueType
    help: str
    project: Rule
    default: object = None
    environment: str = ""
    flags: tuple[str, ...] = ()
    off_flags: tuple[str, ...] = ()
    metavar: str = ""
    verbs: frozenset[str] = MAKES_SANDBOX  # that take its flags
    aliases: Mapping[str, Read] = field(default_factory=dict)  # other TOML keys for the same thing, and how each is read
