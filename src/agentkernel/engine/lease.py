"""Which engines in process live: their stores die with them, so what they leave is known by a lock that nobody holds any more.

<data directory>/engines/<identity of the store>.<backend>    held, by flock, while the engine may have sandboxes of that backend

(They are where the sandboxes' files are: those outlive a boot too.)
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agentkernel.errors import StoreFailed


class Leases:
    """The leases of one engine, and those that others left."""

    def __init__(self, data_directory: str) -> None:
        self._data_directory = data_directory
        self._directory = f"{data_directory}/engines"
        self._held: dict[str, int] = {}

    def take(self, identity: str, backend: str) -> None:
        """Holds the lease before the first sandbox is booted; holding it already is fine. Raises StoreFailed."""
        path = f"{self._directory}/{identity}.{backend}"
        if path in self._held:
            return
        try:
            os.makedirs(self._data_directory, mode=0o711, exist_ok=True)  # sandboxes' ids walk through it to their files
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_still(path, descriptor):
                    break
                os.close(descriptor)  # somebody took it for abandoned in between
        except OSError as error:
            raise StoreFailed(f"cannot make a lease in {self._directory}: {error.strerror}") from error
        self._held[path] = descriptor

    def abandoned(self, backend: str) -> Iterator[str]:
        """The identities of engines that died with sandboxes of that backend; each is forgotten once the caller goes on to the next."""
        try:
            names = sorted(os.listdir(self._directory))
        except OSError:
            return
        for name in names:
            identity, _, of_backend = name.partition(".")
            path = f"{self._directory}/{name}"
            if of_backend == backend and path not in self._held:
                with _taken(path) as is_ours:
                    if is_ours:
                        yield identity
                        os.unlink(path)

    def release(self, *, abandoning: bool = False) -> None:
        """Gives all back: the engine has no sandboxes any more, or (`abandoning`) leaves some for others to sweep."""
        for path, descriptor in self._held.items():
            if not abandoning:
                with suppress(FileNotFoundError):
                    os.unlink(path)
            os.close(descriptor)
        self._held.clear()


@contextmanager
def _taken(path: str) -> Iterator[bool]:
    """Holds a lease that nobody holds for the block; False when somebody does, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = _is_still(path, descriptor)
        except BlockingIOError:
            is_ours = False
        yield is_ours
    finally:
        os.close(descriptor)


def _is_still(path: str, descriptor: int) -> bool:
    try:
        named, opened = os.stat(path, follow_symlinks=False), os.fstat(descriptor)
    except OSError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
