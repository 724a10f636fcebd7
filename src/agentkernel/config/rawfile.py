"""Reads a configuration file's bytes safely, whoever may have put something else in its place."""

# (descriptors and O_ flags: the file is checked and read through one descriptor)

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from agentkernel.errors import InvalidInput

MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """The bytes of a file and who controls them."""

    path: str
    content: bytes
    uid: int
    mode: int


def read_raw(path: str) -> RawFile | None:
    """Reads a regular file of at most 1 MiB without following a symbolic link in its last component; None when there is none.

    The checks are made on the open descriptor, so that the file which is checked is the file which is read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidInput(f"{path} is a symbolic link", hint="name the file itself with --config") from None
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"{path} is not a regular file")
        content = b""
        while len(content) <= MAX_BYTES and (chunk := os.read(descriptor, MAX_BYTES + 1 - len(content))):
            content += chunk
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"{path} is larger than {MAX_BYTES} bytes")
    return RawFile(path=path, content=content, uid=status.st_uid, mode=status.st_mode)
