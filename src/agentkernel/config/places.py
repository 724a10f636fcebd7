"""Where the files of settings are, and whose word counts."""

# (paths stay strings here)

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from agentkernel.config.rawfile import RawFile
from agentkernel.errors import InvalidInput

OPERATOR_FILE = "/etc/agentkernel/config.toml"
PROJECT_FILE = "agentkernel.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The files that speak for the operator and for the user, and the user's list of trusted project files."""

    operator: str
    user: str
    trusted: str
    operator_owner: int = 0  # who the operator's file must belong to


def find_places(environment: Mapping[str, str]) -> Places:
    """By the XDG base directory specification, which has relative values ignored."""
    return Places(
        operator=OPERATOR_FILE,
        user=_base(environment, "XDG_CONFIG_HOME", ".config") + "/agentkernel/config.toml",
        trusted=_base(environment, "XDG_DATA_HOME", ".local/share") + "/agentkernel/trusted.json",
    )


def _base(environment: Mapping[str, str], variable: str, below_home: str) -> str:
    value = environment.get(variable, "")
    return value.rstrip("/") if value.startswith("/") else os.path.join(home_of(environment), below_home)


def home_of(environment: Mapping[str, str]) -> str:
    """HOME, or what the user database says; a path without entries when neither says."""
    home = environment.get("HOME", "")
    if home.startswith("/"):
        return home
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/nonexistent"


def check_authority(raw: RawFile, *, owners: frozenset[int]) -> RawFile:
    """Passes a file on when only `owners` can write it; its word is policy, so a file that others write must not be used or overlooked."""
    if raw.uid not in owners:
        raise InvalidInput(f"{raw.path} belongs to user {raw.uid}, so its word is not policy", hint="change its owner, or remove it")
    if raw.mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidInput(f"{raw.path} can be written by others", hint=f"chmod go-w {raw.path}")
    return raw
