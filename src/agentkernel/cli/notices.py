"""Says each notice of a grant once per user: its code is remembered in a file of the state directory, one code a line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from agentkernel.cli.output import say
from agentkernel.model.request import Notice

_FILE = "notices-said"
_MAX_BYTES = 65536  # far more codes than there are; whatever else fills the file is not read


def say_new(notices: Iterable[Notice], directory: str, environment: Mapping[str, str]) -> None:
    """Writes the notices that this user has not seen to stderr and remembers them; where that fails they are said again."""
    path = f"{directory}/{_FILE}"
    said = _read(path)
    for notice in notices:
        if notice.code in said:
            continue
        say("note", notice.message, notice.hint, environment)
        said.add(notice.code)
        _remember(path, directory, notice.code)


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
