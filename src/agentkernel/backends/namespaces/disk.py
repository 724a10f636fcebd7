"""A sandbox's own writes on the host's disk: removing them again, and keeping them within their limit."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Removes a tree that hostile programs may have shaped: by directory descriptors, never following a link, without recursion.

    The depth of a hostile tree is bounded only by the disk, and one descriptor is open per level; so deep directories are first moved up to the top level.
    """
    try:
        top = os.open(path, _OPEN)
    except FileNotFoundError:
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()


def _empty(top: int) -> None:
    """Empties the directory: subdirectories of subdirectories move to the top, so that no level below the second is ever walked."""
    counter = 0
    while True:
        entries = os.listdir(top)
        if not entries:
            return
        for name in entries:
            if not _is_directory(name, top):
                os.unlink(name, dir_fd=top)
                continue
            child = _open_for_removal(name, top)
            try:
                for inner in os.listdir(child):
                    if _is_directory(inner, child):
                        counter += 1
                        _make_removable(inner, child)
                        os.rename(inner, f".removing-{os.getpid()}-{counter}", src_dir_fd=child, dst_dir_fd=top)
                    else:
                        os.unlink(inner, dir_fd=child)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=top)


def _is_directory(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _make_removable(name: str, parent: int) -> None:
    """A directory without write permission cannot be moved to another parent (its `..` changes)."""
    with contextlib.suppress(OSError):
        os.chmod(name, 0o700, dir_fd=parent)


def _open_for_removal(name: str, parent: int) -> int:
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _OPEN, dir_fd=parent)


def usage_bytes(path: Path, limit_entries: int = 200_000) -> int:
    """Sums the blocks of a tree, stopping after `limit_entries` entries (then the count so far times the share is unknown: it returns what it saw)."""
    total = 0
    pending = [str(path)]
    seen = 0
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
