"""What the channel needs of a backend: a stream to the agent, and news of the boundary around it."""

from __future__ import annotations

import socket
from typing import Protocol

from agentkernel.channel.messages import NetworkPorts
from agentkernel.model.command import LimitHit
from agentkernel.model.spec import SandboxSpec


class Reachable(Protocol):
    """Where a stream to the other end comes from."""

    async def connect(self) -> socket.socket:
        """Opens a stream to the agent for one attach: connected, non-blocking, owned by the caller.

        Raises:
            OSError: not now; the channel tries again for some seconds.
            AgentKernelError: never again; SandboxLost as a rule.
        """
        ...

    async def wait_dead(self) -> str:
        """Returns why once the boundary has died; may be cancelled and called again."""
        ...


class Boundary(Reachable, Protocol):
    """A booted isolation boundary with an agent inside. Everything above it is the same for every backend."""

    @property
    def backend(self) -> str:
        """The backend's name."""
        ...

    @property
    def sandbox_id(self) -> str:
        """The id that it was booted with, or that its backend gave it: 16 hexadecimal digits."""
        ...

    @property
    def spec(self) -> SandboxSpec:
        """What it was built from."""
        ...

    @property
    def seccomp(self) -> bytes:
        """The workload's filter: an array of `struct sock_filter`."""
        ...

    @property
    def rlimits(self) -> tuple[tuple[int, int, int], ...]:
        """(resource, soft, hard) for every process of the workload."""
        ...

    @property
    def network(self) -> NetworkPorts | None:
        """Where the agent takes the workload's connections; None: nowhere, the sandbox reaches nothing."""
        ...

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        """The limits hit since the last call."""
        ...

    async def close(self) -> None:
        """Lets go of a sandbox that was booted, so that another engine can recover it: ends nothing, frees what this process holds.

        Nothing happens to one that was not booted: it ends with this process and is this process's to destroy.
        """
        ...

    async def stop(self) -> None:
        """Kills everything inside and frees all but the files; repeating it is fine.

        Raises:
            Unsupported: no files are kept; it was not booted, or has them in memory.
        """
        ...

    async def destroy(self) -> None:
        """Kills everything inside and removes every trace; repeating it is fine."""
        ...
