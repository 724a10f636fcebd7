"""Gives the files of an image that was unpacked the owners that it says they have.

Only uid 0 can, and only to ids that are nobody's on the host: they are from a range that agentkernel keeps for it (`IMAGE_IDS`), which a
mount shows a sandbox as its own ids 0-65535. So no user of the host owns a file of the store, whatever images say. The unpacker ran in a
sandbox and has ended; what it noted is as hostile as the image.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from agentkernel.config.privilege import has_id_ranges
from agentkernel.owners import ATTRIBUTE, IMAGE_IDS, parse_note

_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY: Final = _FILE | os.O_DIRECTORY
_NOT_HERE: Final = frozenset({errno.EINVAL, errno.EPERM, errno.ENOTSUP})  # a user namespace without these ids, a file system without owners


def give_owners(directory: str) -> bool:
    """All of a tree that nobody changes meanwhile; False: it cannot be done here, and everything stays the caller's.

    Raises:
        OSError: the host fails half-way; the tree is to be removed.
    """
    if not has_id_ranges():
        return False
    top = os.open(directory, _DIRECTORY)
    try:
        os.fchown(top, IMAGE_IDS, IMAGE_IDS)
    except OSError as error:
        os.close(top)
        if error.errno in _NOT_HERE:
            return False
        raise
    _give_all(top)
    return True


def _give_all(top: int) -> None:
    """Takes the descriptor. As many directories are open as lie in one another, which the unpacker bounds."""
    pending = [(top, _names(top))]
    try:
        while pending:
            parent, names = pending[-1]
            if not names:
                os.close(pending.pop()[0])
                continue
            inner = _give(names.pop(), parent)
            if inner is not None:
                pending.append((inner, _names(inner)))
    finally:
        for descriptor, _ in pending:
            os.close(descriptor)


def _names(directory: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(directory)]


def _give(name: bytes, parent: int) -> int | None:
    """The descriptor of a directory, which is the caller's."""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    is_directory = stat.S_ISDIR(status.st_mode)
    if not is_directory and status.st_uid >= IMAGE_IDS:
        return None  # another name of a file that has its owner
    if not is_directory and not stat.S_ISREG(status.st_mode):
        os.chown(name, IMAGE_IDS, IMAGE_IDS, dir_fd=parent, follow_symlinks=False)
        return None
    descriptor = os.open(name, _DIRECTORY if is_directory else _FILE, dir_fd=parent)
    try:
        uid, gid = _noted(descriptor)
        os.fchown(descriptor, IMAGE_IDS + uid, IMAGE_IDS + gid)
    except BaseException:
        os.close(descriptor)
        raise
    if is_directory:
        return descriptor
    os.close(descriptor)
    return None


def _noted(descriptor: int) -> tuple[int, int]:
    """What the unpacker noted, and forgets it: it is none of the sandboxes'."""
    try:
        noted = os.getxattr(descriptor, ATTRIBUTE)
        os.removexattr(descriptor, ATTRIBUTE)
    except OSError as error:
        if error.errno not in {errno.ENODATA, errno.ENOTSUP}:
            raise
        return 0, 0
    return parse_note(noted)
