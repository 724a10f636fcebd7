"""The real agent as a plain process, unsandboxed: a boundary for tests of the channel. Only harmless commands, please."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from dataclasses import dataclass, field
from pathlib import Path

from agentkernel.channel.messages import NetworkPorts
from agentkernel.model.command import LimitHit
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec, User


def spec_for(home: Path) -> SandboxSpec:
    """Commands run as who runs the tests, in `home`."""
    return SandboxSpec(
        name="agent",
        root=RootFilesystem(kind=RootKind.HOST),
        profile="moderate",
        user=User(uid=os.getuid(), gid=os.getgid(), home=str(home)),
        environment=(("PATH", "/usr/bin:/bin"), ("HOME", str(home))),
    )


@dataclass
class AgentProcess:
    """One `agentkernel-guest agent --listen`."""

    binary: Path
    home: Path
    seccomp: bytes = b""
    rlimits: tuple[tuple[int, int, int], ...] = ()
    network: NetworkPorts | None = None
    backend: str = "process"
    sandbox_id: str = "0" * 16
    connects: int = 0
    process: asyncio.subprocess.Process | None = None

    @property
    def spec(self) -> SandboxSpec:
        return spec_for(self.home)

    @property
    def socket_path(self) -> str:
        return str(self.home / "agent.sock")

    async def launch(self) -> None:
        """Starts the agent; `connect` may be called at once."""
        self.process = await asyncio.create_subprocess_exec(str(self.binary), "agent", "--listen", self.socket_path)

    async def connect(self) -> socket.socket:
        self.connects += 1
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.socket_path)
        except OSError:
            sock.close()
            raise
        return sock

    async def wait_dead(self) -> str:
        assert self.process is not None
        return f"the agent exited with {await self.process.wait()}"

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        return ()

    async def close(self) -> None:
        """It was not booted."""

    async def destroy(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(5):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()


@dataclass
class CuttingAgent(AgentProcess):
    """Cuts each connection after a random number of bytes in either direction, until `cuts_left` is used up."""

    source: random.Random = field(default_factory=random.Random)
    cuts_left: int = 0
    cuts: int = 0
    largest: int = 100_000
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def connect(self) -> socket.socket:
        if self.cuts_left <= 0:
            return await super().connect()
        self.cuts_left -= 1
        agent = await super().connect()
        host, near = socket.socketpair()
        for sock in (host, near):
            sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._relay(near, agent))
        self.tasks.add(task)

        def cut(task: asyncio.Task[None]) -> None:
            near.close()
            agent.close()
            self.cuts += 1
            self.tasks.discard(task)

        task.add_done_callback(cut)
        return host

    def _budget(self) -> int:
        return int(self.largest ** self.source.random())

    async def _relay(self, near: socket.socket, agent: socket.socket) -> None:
        """Forwards until one direction's budget is spent, then drops both ends, with whatever was under way."""
        pumps = [
            asyncio.create_task(self._pump(near, agent, self._budget())),
            asyncio.create_task(self._pump(agent, near, self._budget())),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            for pump in pumps:
                if not pump.cancelled():
                    pump.exception()  # the other end may be gone

    async def _pump(self, source: socket.socket, target: socket.socket, budget: int) -> None:
        loop = asyncio.get_running_loop()
        while budget > 0:
            data = await loop.sock_recv(source, self.source.randint(1, 65_536))
            if not data:
                return
            await loop.sock_sendall(target, data[:budget])
            budget -= len(data)

    async def destroy(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        await asyncio.sleep(0)
        await super().destroy()
