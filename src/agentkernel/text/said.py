"""Which notices a user has been told: each is said once, and its code kept in a file of the state directory, one code a line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from agentkernel.model.request import Notice

_FILE = "notices-said"
_MAX_BYTES = 65536  # far more codes than there are; whatever else fills the file is not read


def state_directory(environment: Mapping[str, str]) -> str:
    """Where a user's small memories are kept; may not exist yet."""
    base = environment.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(environment.get("HOME", "") or "/nonexistent", ".local", "state")
    return base + "/agentkernel"


def unsaid(notices: Iterable[Notice], directory: str) -> list[Notice]:
    """Those that this user has not been told, which are remembered as told now; where that fails they will be said again."""
    path = f"{directory}/{_FILE}"
    said = _read(path)
    new = []
    for notice in notices:
        if notice.code not in said:
            said.add(notice.code)
            new.append(notice)
            _remember(path, directory, notice.code)
    return new


def _read(path: str) -> set[str]:
    try:
        with open(path, "rb") as file:
            return set(file.read(_MAX_BYTES).decode(errors="replace").split("\n"))
    except OSError:
        return set()


def _remember(path: str, directory: str, code: str) -> None:
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{code}\n".encode())  # one append is atomic beside other runs
        finally:
            os.close(descriptor)
    except OSError:
        return
