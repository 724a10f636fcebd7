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

from agentkernel.model.spec import IMAGE_IDS, RANGE_SIZE

ATTRIBUTE: Final = b"user.agentkernel.owner"  # of `images.unpacker`: uid:gid; none: root's
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_HERE: Final = frozenset({errno.EINVAL, errno.EPERM, errno.ENOTSUP})  # a user namespace without these ids, a file system without owners


def give_owners(directory: str) -> bool:
    """All of a tree that nobody changes meanwhile; False: it cannot be done here, and everything stays the caller's.

    Raises:
        OSError: the host fails half-way; the tree is to be removed.
    """
    if os.geteuid() != 0:
        return False
    try:
        os.chown(directory, IMAGE_IDS, IMAGE_IDS, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return False
        raise
    for _, directories, files, descriptor in os.fwalk(os.fsencode(directory), follow_symlinks=False):
        for name in (*directories, *files):
            _give(name, descriptor)
    return True


def _give(name: bytes, parent: int) -> None:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if status.st_uid >= IMAGE_IDS:
        return  # another name of a file that has its owner
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        os.chown(name, IMAGE_IDS, IMAGE_IDS, dir_fd=parent, follow_symlinks=False)
        return
    descriptor = os.open(name, _OPEN, dir_fd=parent)
    try:
        uid, gid = _noted(descriptor)
        os.fchown(descriptor, IMAGE_IDS + uid, IMAGE_IDS + gid)
    finally:
        os.close(descriptor)


def _noted(descriptor: int) -> tuple[int, int]:
    """What the unpacker noted, and forgets it: it is none of the sandboxes'."""
    try:
        uid, _, gid = os.getxattr(descriptor, ATTRIBUTE).partition(b":")
        os.removexattr(descriptor, ATTRIBUTE)
    except OSError:
        return 0, 0
    return _id(uid), _id(gid)


def _id(text: bytes) -> int:
    return int(text) if len(text) <= 5 and text.isdigit() and int(text) < RANGE_SIZE else RANGE_SIZE - 2
