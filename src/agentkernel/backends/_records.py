"""Facts of a sandbox in small files, and the identity of a process in one of them."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from agentkernel.backends._lease import UNFINISHED_AGE_S
from agentkernel.errors import Conflict, InvalidInput, SandboxFailed

_SANDBOX_ID = re.compile(r"[0-9a-f]{16}")
_OWNER = re.compile(r"[0-9a-f]{32}")
LEFT_HINT = "try again: what is left of it is found by its records"
BUILD_HINT = "run `agentkernel doctor`"


@contextlib.contextmanager
def failing_as(failure: type[SandboxFailed], what: str, hint: str) -> Iterator[None]:
    """For the block, an OSError of the host is that failure."""
    try:
        yield
    except OSError as error:
        raise failure(f"{what}: {error}", hint=hint) from error


def is_sandbox_id(text: str) -> bool:
    """Whether a text that somebody else may have chosen can be a sandbox's id."""
    return _SANDBOX_ID.fullmatch(text) is not None


def check_identity(sandbox_id: str, owner: str) -> None:
    """Raises InvalidInput for what is no sandbox's id or no store's identity: paths are made of them."""
    if not is_sandbox_id(sandbox_id):
        raise InvalidInput(f"{sandbox_id!r} is no sandbox's id")
    if not _OWNER.fullmatch(owner):
        raise InvalidInput(f"{owner!r} is no store's identity")


def check_owner(sandbox_id: str, recorded: str, owner: str) -> None:
    """Raises Conflict where another store's identity is recorded; an empty record is one that a crash cut short."""
    if recorded not in ("", owner):
        raise Conflict(f"sandbox {sandbox_id} belongs to another store", hint="use the daemon, or AGENTKERNEL_HOME, that it was made with")


def write_file(path: str, content: str | bytes) -> None:
    """Writes a small file in three system calls, where a file object takes seven: each start writes a dozen."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, content.encode() if isinstance(content, str) else content)
    finally:
        os.close(fd)


def read_file(path: str) -> bytes:
    """Reads one; empty where there is none. Raises OSError when it cannot be told: a shortage of the moment is no absence."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return b""


@cache
def boot_id() -> str:
    """Of this boot of the host's kernel."""
    return read_file("/proc/sys/kernel/random/boot_id").decode().strip() or "-"


def start_time(pid: int) -> str:
    """The process's start time in clock ticks since boot (field 22 of /proc/<pid>/stat), which tells it from a later one with its pid."""
    try:
        return read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19].decode()
    except IndexError:
        return "0"


def process_record(pid: int) -> str:
    """What names one process for ever: `<pid> <start time> <boot>`."""
    return f"{pid} {start_time(pid)} {boot_id()}"


def recorded_process(record: str) -> tuple[int, int] | None:
    """(pid, pidfd) of the process that a record names, alive or not yet reaped; None when there is none any more.

    Raises OSError when it cannot be told.
    """
    fields = record.split()
    if len(fields) < 2 or not fields[0].isdigit() or fields[2:] not in ([], [boot_id()]):
        return None
    pid = int(fields[0])
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        if start_time(pid) == fields[1]:
            return pid, os.dup(pidfd)
    finally:
        os.close(pidfd)
    return None


def owned_in(directory: Path, owner: str) -> Iterator[str]:
    """The ids of an owner's sandboxes beneath a directory; also of those whose making a crash cut short so early that nobody owns them."""
    for path in sorted(directory.iterdir()):
        if _SANDBOX_ID.fullmatch(path.name):
            recorded = read_file(f"{path}/owner").decode(errors="replace")
            if recorded == owner or (not recorded and _is_old(path)):
                yield path.name


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > UNFINISHED_AGE_S
    except FileNotFoundError:
        return False
