"""Programs of the host as contenders: started by posix_spawn, which adds the least of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from agentkernel.benchmark.timing import Contender
from agentkernel.errors import Unsupported


def program(argv: tuple[str, ...], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Contender:
    """Starts a program in a directory (this one) without input, its output thrown away, and waits for its end, the event loop too.

    The contender raises Unsupported when the program fails, as this does when there is none of that name.
    """
    path = shutil.which(argv[0])
    if path is None:
        raise Unsupported(f"{argv[0]} is not installed")
    surroundings = dict(os.environ if environment is None else environment)

    async def run() -> None:
        streams = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        with contextlib.chdir(cwd or "."):
            pid = os.posix_spawn(path, argv, surroundings, file_actions=streams)  # noqa: ASYNC221 - a thread would be in the time
        _, status = os.waitpid(pid, 0)
        if status != 0:
            raise Unsupported(f"{' '.join(argv)} ended with status {os.waitstatus_to_exitcode(status)}")

    return run
