"""A sandbox's own writes on the host's disk: removing them again, and measuring them.

Also a program, `python -I -S disk.py DIRECTORY UID GID`, which removes as that user: hostile trees are walked without privilege.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


async def remove_data(path: Path, id_base: int | None, user: int = 1000) -> None:
    """Removes a sandbox's data directory; its processes have ended.

    With an id range its files belong to the range's root and user, so it is emptied by processes with these ids; root itself only
    removes what they leave: empty directories.
    """
    if id_base is None:
        await asyncio.to_thread(remove_tree, path)
        return
    for owner in (id_base + user, id_base):
        program = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", __file__, str(path), str(owner), str(owner), cwd="/")
        await program.wait()
    await asyncio.to_thread(remove_tree, path)


def remove_tree(path: Path) -> None:
    """Removes a tree that hostile programs may have shaped: by directory descriptors, never following a link, without recursion.

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
        path.rmdir()


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


def usage_bytes(path: Path, limit_entries: int = 100_000) -> int:
    """Sums the allocated blocks of a tree, at most of its first `limit_entries` entries; what vanishes meanwhile is not counted."""
    total = seen = 0
    pending = [str(path)]
    while pending and seen < limit_entries:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                seen += 1
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    total += found.st_blocks * 512
                    if stat.S_ISDIR(found.st_mode):
                        pending.append(entry.path)
    return total


def main() -> int:
    """The program: becomes UID and GID for good, and empties DIRECTORY, which it opened while it still could."""
    directory, uid, gid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        top = os.open(directory, _OPEN)  # the way to it is closed to that user
    except FileNotFoundError:
        return 0
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    while _empty_once(top):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
