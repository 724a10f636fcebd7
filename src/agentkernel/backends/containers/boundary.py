"""A container with an agent: how to reach it, how it dies, what limited it, how it is stopped and removed."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

from agentkernel.backends._agent import connect
from agentkernel.backends._configuration import Configuration
from agentkernel.backends._held import Held
from agentkernel.backends._linux.launch import readable
from agentkernel.backends.containers import stdio
from agentkernel.backends.containers.holdings import Holdings, recorded_holdings
from agentkernel.backends.containers.host import Host
from agentkernel.backends.containers.plan import Stream
from agentkernel.errors import AgentKernelError, SandboxLost
from agentkernel.model.command import LimitHit
from agentkernel.model.spec import SandboxSpec

_LOOK_S: Final = 2.0  # how often an engine elsewhere is asked whether the container still runs


class ContainerBoundary(Held[Holdings]):
    """Implements `channel.boundary.Boundary`."""

    def __init__(self, spec: SandboxSpec, holdings: Holdings, host: Host, *, configuration: Configuration, stream: Stream) -> None:
        super().__init__(holdings, keeps_files=holdings.keeps)
        self.backend = host.dialect.name
        self.spec = spec
        self.seccomp = configuration.seccomp
        self.rlimits = configuration.rlimits
        self.network = configuration.network
        self._host = host
        self._stream = stream
        self._name = holdings.name
        holdings.user = spec.user.uid

    @property
    def pid(self) -> int:
        """The first process, as the host sees it; 0 where it does not, and once destroyed."""
        return self._holdings.pid if self._holdings else 0

    async def connect(self) -> socket.socket:
        """Opens one attach: to the socket that the container's first process listens on, or to its standard streams."""
        holdings = self._holdings
        if self._end or holdings is None:
            raise SandboxLost(f"the sandbox was {self._end}")
        if self._stream is not Stream.SOCKET:
            await self._require_running()
            join = stdio.attach if self._stream is Stream.STDIO else stdio.session
            return await join(self._host.dialect.api, self._name)
        if holdings.has_ended:
            raise SandboxLost(f"the sandbox died: {await self._how_it_ended()}")
        return connect(holdings.socket, owner=holdings.facts.agent_uid, pid=holdings.pid)

    async def _require_running(self) -> None:
        found = await self._host.containers.find(self._name)
        if found is None or not found.running:
            raise SandboxLost(f"the sandbox died: {found.said if found else 'its container is gone'}")

    async def wait_dead(self) -> str:
        """Waits until the first process ends, and says how."""
        holdings = self._holdings
        if holdings is None:
            return f"it was {self._end}"
        if holdings.pidfd < 0:
            return await self._look_until_dead()
        watched = os.dup(holdings.pidfd)  # the original is closed by destroy
        try:
            await readable(watched)
        finally:
            os.close(watched)
        return f"it was {self._end}" if self._end else await self._how_it_ended()

    async def _look_until_dead(self) -> str:
        while not self._end:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._require_running()
            except SandboxLost as lost:
                return lost.message
            except AgentKernelError:
                continue  # the engine is being started again, say: that ends no container by itself
        return f"it was {self._end}"

    async def _how_it_ended(self) -> str:
        watches = self._holdings.watches if self._holdings else ()
        for reason in filter(None, (watch.reason for watch in watches)):
            return reason
        try:
            found = await self._host.containers.find(self._name)
        except AgentKernelError:
            return "its first process ended"
        return found.said if found is not None and not found.running else "its first process ended"

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        """Which limits hit since the last call."""
        holdings = self._holdings
        if holdings is None:
            return ()
        by_group = holdings.cgroups.limits_hit() if holdings.cgroups else ()
        return (*by_group, *(hit for watch in holdings.watches for hit in watch.hits()))

    async def _recorded(self) -> Holdings | None:
        holdings, _ = await recorded_holdings(self._host, self.sandbox_id, self._owner)
        if holdings is not None:
            holdings.user = self.spec.user.uid
        return holdings
