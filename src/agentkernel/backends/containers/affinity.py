"""A limit of processors where no cgroup is to be had: so many are the container's first process's, and of all that it starts."""

from __future__ import annotations

import asyncio
import math
import os
from typing import Final

from agentkernel.backends.containers.dialect import EngineFacts
from agentkernel.backends.containers.host import Host
from agentkernel.errors import LaunchFailed

_PROGRAM: Final = """
import os, sys
try:
    os.sched_setaffinity(int(sys.argv[1]), set(map(int, sys.argv[2:])))
except ProcessLookupError:
    pass  # it has ended: whoever attaches to it learns why
"""
_PATIENCE_S: Final = 30.0


async def set_affinity(host: Host, facts: EngineFacts, pid: int, cpus: float | None) -> None:
    """Lets a process run on so many processors, rounded up, where no cgroup limits it; raises LaunchFailed."""
    before = host.dialect.mounter(facts)
    if cpus is None or "cpu" in facts.enforced or before is None or not pid:
        return
    allowed = sorted(os.sched_getaffinity(0))
    count = min(len(allowed), math.ceil(cpus))
    start = int.from_bytes(os.urandom(2), "little") % len(allowed)
    chosen = [str(allowed[(start + step) % len(allowed)]) for step in range(count)]
    argv = (*before, "-I", "-S", "-c", _PROGRAM, str(pid), *chosen)
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    program = await asyncio.create_subprocess_exec(*argv, stdin=none, stdout=none, stderr=pipe, cwd="/")
    talk = asyncio.ensure_future(program.communicate())
    try:
        _, errors = await asyncio.wait_for(asyncio.shield(talk), _PATIENCE_S)
    except (TimeoutError, asyncio.CancelledError):
        program.kill()
        await asyncio.wait([talk])
        raise
    if program.returncode:
        raise LaunchFailed(f"the sandbox's processors cannot be limited: {errors.decode(errors='replace').strip()[-300:]}")
