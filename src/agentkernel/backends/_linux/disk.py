"""A sandbox's own writes on the host's disk: removing them again, and measuring them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from agentkernel.backends._linux import removal


async def remove_trees(paths: Sequence[Path], id_base: int | None, user: int = 1000) -> None:
    """Removes directories of a sandbox whose processes have ended; those that are not there are no error.

    With an id range its files belong to the range's root and user, so they are emptied by processes with these ids; root itself only
    removes what they leave: empty directories.
    """
    if not paths:
        return
    if id_base is not None:
        ids = f"{id_base + user},{id_base}"
        argv = (sys.executable, "-I", "-S", removal.__file__, ids, *map(str, paths))
        program = await asyncio.create_subprocess_exec(*argv, cwd="/")
        await program.wait()
    for path in paths:
        await asyncio.to_thread(removal.remove_tree, path)


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
