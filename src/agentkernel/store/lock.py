"""One process at a time has a store: the lock that fences a second daemon."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from agentkernel.errors import Conflict, StoreFailed

LOCK_NAME = "store.lock"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_TEXT_LIMIT_BYTES = 200


@dataclass(slots=True)
class StoreLock:
    """Held as long as `fd` is open, so the kernel gives it back when its process dies, however it dies.

    The file says who has it, "<pid> <boot id>", for people and for the message to whoever comes second; what counts is the flock.
    """

    path: Path
    fd: int

    @classmethod
    def take(cls, directory: Path) -> StoreLock:
        """Locks `directory`; raises Conflict naming the pid of the process that has it, StoreFailed when there can be no lock."""
        path = directory / LOCK_NAME
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreFailed(f"cannot open {path}: {error.strerror}", hint="free some room or set AGENTKERNEL_HOME") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {boot_id()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(fd, _TEXT_LIMIT_BYTES, 0).decode(errors="replace").split(" ")[0] or "unknown"
            os.close(fd)
            raise Conflict(f"the store {directory} belongs to process {holder}", hint="`agentkernel daemon status` tells more") from None
        except OSError as error:
            os.close(fd)
            raise StoreFailed(f"cannot lock {path}: {error.strerror}", hint="free some room or set AGENTKERNEL_HOME") from error
        return cls(path=path, fd=fd)

    def release(self) -> None:
        """Gives it back; repeating it is fine. The file stays: removing it would let two processes lock two files of one name."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def boot_id() -> str:
    """Which boot of this machine this is; empty where the system does not say."""
    try:
        with open(_BOOT_ID) as file:
            return file.read().strip()
    except OSError:
        return ""
