"""A running agent without any boundary around it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket

from agentkernel.backends._agent import SOCKET_NAME, connect
from agentkernel.backends._configuration import Configuration, Rlimits
from agentkernel.backends._records import LEFT_HINT, failing_as
from agentkernel.backends.memory.place import Place, find_place
from agentkernel.channel.messages import NetworkPorts
from agentkernel.errors import SandboxFailed, SandboxLost, Unsupported
from agentkernel.model.command import LimitHit
from agentkernel.model.spec import SandboxSpec, StorageKind


class MemoryBoundary:
    """Implements `channel.boundary.Boundary` for an agent whose place is private to it and removed with it."""

    backend = "memory"

    def __init__(self, spec: SandboxSpec, place: Place, configuration: Configuration) -> None:
        self.spec = spec
        self.seccomp = configuration.seccomp
        self.rlimits = configuration.rlimits
        self.network: NetworkPorts | None = None
        self.sandbox_id = place.sandbox_id
        self._place: Place | None = place
        self._path = place.path
        self._owner = place.owner
        self._ending = asyncio.Lock()
        self._end = ""

    async def connect(self) -> socket.socket:
        """Connects to the agent's socket."""
        if self._end:
            raise SandboxLost(f"the sandbox was {self._end}")
        return connect(self._path / SOCKET_NAME)

    async def wait_dead(self) -> str:
        """Waits for the agent's end."""
        if self._place is None or self._place.pidfd < 0:
            return f"it was {self._end}"
        watched = os.dup(self._place.pidfd)
        try:
            await _readable(watched)
            if self._end:
                return f"it was {self._end}"
            with contextlib.suppress(ChildProcessError):
                result = os.waitid(os.P_PIDFD, watched, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                if result is not None:
                    return f"its agent ended with status {result.si_status}"
            return "its agent ended"
        finally:
            os.close(watched)

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        """None: there are no limits that the host would watch."""
        return ()

    async def close(self) -> None:
        """Lets go of a booted sandbox."""
        async with self._ending:
            if self._owner and self._place is not None:
                place, self._place, self._end = self._place, None, "let go"
                place.let_go()

    async def stop(self) -> None:
        """Ends it and keeps its files; raises Unsupported where none are to be kept."""
        if not self._owner or self.spec.storage is not StorageKind.DISK:
            raise Unsupported("no files are kept of this sandbox", hint="destroy it")
        await asyncio.shield(self._finish("stopped", keep_files=True))

    async def destroy(self) -> None:
        """Ends the agent with everything below it and removes the directory."""
        await asyncio.shield(self._finish("destroyed", keep_files=False))

    async def _finish(self, how: str, *, keep_files: bool) -> None:
        self._end = how
        async with self._ending:
            with failing_as(SandboxFailed, f"the sandbox cannot be {how}", LEFT_HINT):
                place, self._place = self._place, None
                if place is None and self._owner:  # it was let go, or stopped
                    place = await find_place(self._path.parent, self.sandbox_id, self._owner)
                if place is not None:
                    await place.end(keep_files=keep_files)


def workload_limits(spec: SandboxSpec) -> Rlimits:
    """No core files, and per file (not in sum) the size that the spec allows for all."""
    wanted = (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, spec.resources.open_files),
        (resource.RLIMIT_FSIZE, spec.resources.disk_bytes),
    )
    limits = []
    for number, value in wanted:
        hard = resource.getrlimit(number)[1]
        granted = value if hard == resource.RLIM_INFINITY else min(value, hard)
        limits.append((number, granted, granted))
    return tuple(limits)


async def _readable(descriptor: int) -> None:
    """Waits until the pidfd says that its process ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
