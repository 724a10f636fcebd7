"""Removing trees that hostile programs have shaped: by directory descriptors, never following a link, without recursion.

Also a program, `python -I -S removal.py IDS DIRECTORY...`, which empties the directories as each user of IDS (`uid,uid,...`) in turn:
hostile trees are walked without privilege. It imports little, because it is started for every stop.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str | Path) -> None:
    """Removes a tree; one that is not there is no error.

    The depth of a hostile tree is bounded only by the disk, so deep directories move up to the top level instead of being walked down.
    What the caller may not remove stays.
    """
    try:
        top = os.open(path, _OPEN)
    except FileNotFoundError:
        return
    try:
        while _empty_once(top):
            pass
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _empty_once(top: int) -> bool:
    """Removes the entries of `top`, moving directories two levels down up to it; returns whether anything changed."""
    changed = False
    for number, name in enumerate(os.listdir(top)):
        with contextlib.suppress(OSError):
            if not _is_directory(name, top):
                os.unlink(name, dir_fd=top)
            else:
                changed |= _flatten(name, top, number)
                os.rmdir(name, dir_fd=top)
            changed = True
    return changed


def _flatten(name: str, top: int, number: int) -> bool:
    changed = False
    child = _open_for_removal(name, top)
    try:
        for count, inner in enumerate(os.listdir(child)):
            with contextlib.suppress(OSError):
                if _is_directory(inner, child):
                    _open_up(inner, child)
                    os.rename(inner, f".removing-{number}-{count}-{os.urandom(8).hex()}", src_dir_fd=child, dst_dir_fd=top)
                else:
                    os.unlink(inner, dir_fd=child)
                changed = True
    finally:
        os.close(child)
    return changed


def _is_directory(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _open_up(name: str, parent: int) -> None:
    """Gives the owner every right: a directory that cannot be written cannot be emptied, nor moved (its `..` changes)."""
    with contextlib.suppress(OSError):
        fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
        finally:
            os.close(fd)


def _open_for_removal(name: str, parent: int) -> int:
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except PermissionError:
        _open_up(name, parent)
        return os.open(name, _OPEN, dir_fd=parent)


def _empty_as(uid: int, tops: list[int]) -> None:
    """Becomes that user for good and empties the directories; run in a process of its own."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    for top in tops:
        while _empty_once(top):
            pass


def main() -> int:
    """The program: opens the directories, while it still can, and lets a child for each user empty them."""
    tops = []
    for directory in sys.argv[2:]:
        with contextlib.suppress(FileNotFoundError):
            tops.append(os.open(directory, _OPEN))  # the way to it is closed to those users
    for uid in map(int, sys.argv[1].split(",")):
        child = os.fork()
        if child == 0:
            try:
                _empty_as(uid, tops)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
