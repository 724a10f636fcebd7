"""A running agent without any boundary around it."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agentkernel.backends.memory.tree import end_tree
from agentkernel.errors import SandboxLost, Unsupported
from agentkernel.model.command import LimitHit
from agentkernel.model.spec import SandboxSpec

SOCKET_NAME = "agent.sock"


@dataclass(slots=True, kw_only=True)
class MemoryBoundary:
    """Implements `channel.boundary.Boundary` for an agent that runs in `directory`, which is private to it and removed with it."""

    spec: SandboxSpec
    seccomp: bytes
    directory: Path
    agent: subprocess.Popen[bytes]
    sandbox_id: str
    destroyed: bool = False

    @property
    def backend(self) -> str:
        """The backend's name."""
        return "memory"

    @property
    def rlimits(self) -> tuple[tuple[int, int, int], ...]:
        """No core files, and per file (not in sum) the size that the spec allows for all."""
        wanted = (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, self.spec.resources.open_files),
            (resource.RLIMIT_FSIZE, self.spec.resources.disk_bytes),
        )
        limits = []
        for number, value in wanted:
            hard = resource.getrlimit(number)[1]
            granted = value if hard == resource.RLIM_INFINITY else min(value, hard)
            limits.append((number, granted, granted))
        return tuple(limits)

    async def connect(self) -> socket.socket:
        """Connects to the agent's socket; OSError while the agent is still starting."""
        if self.destroyed or self.agent.poll() is not None:
            raise SandboxLost(await self.wait_dead())
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            connection.connect(str(self.directory / SOCKET_NAME))
        except BaseException:
            connection.close()
            raise
        return connection

    async def wait_dead(self) -> str:
        """Waits for the agent's end."""
        if not self.destroyed and self.agent.poll() is None:
            await _readable(os.pidfd_open(self.agent.pid))
        if self.destroyed:
            return "the sandbox was destroyed"
        return f"its agent ended with status {self.agent.wait()}"

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        """None: there are no limits that the host would watch."""
        return ()

    async def stop(self) -> None:
        """Raises Unsupported: nothing could go on with the files of a sandbox that was not booted."""
        raise Unsupported("a sandbox that was not booted cannot be stopped", hint="destroy it")

    async def destroy(self) -> None:
        """Ends the agent with everything below it and removes the directory."""
        if self.destroyed:
            return
        self.destroyed = True
        if self.agent.poll() is None:
            await asyncio.to_thread(end_tree, self.agent.pid)
        self.agent.wait()
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)


async def _readable(descriptor: int) -> None:
    """Waits until the pidfd says that its process ended, and closes it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
