"""A live sandbox: `abc.Sandbox` over any `Boundary`."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from agentkernel import channel as late  # what is only needed to look into a sandbox
from agentkernel.channel.boundary import Boundary
from agentkernel.channel.collect import Collector, feed
from agentkernel.channel.commands import RING_BYTES, base_environment, start_of
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import SIGNAL, Builtin, Failure, Start, StartFlag
from agentkernel.channel.mux import Channel, Deadlines, configuration_of, open_channel
from agentkernel.channel.process import GuestProcess, adopt, launch
from agentkernel.channel.tunnel import HostTunnel
from agentkernel.errors import AgentKernelError, InvalidInput, ProtocolViolation, SandboxFailed, TimedOut
from agentkernel.model.command import Cause, Command, ExecResult, ExitStatus
from agentkernel.model.spec import SandboxSpec

if TYPE_CHECKING:
    from agentkernel.abc_network import TunnelPeer
    from agentkernel.channel.files import GuestFiles
    from agentkernel.channel.relay import Client, Relay
    from agentkernel.model.inspection import ProcessRecord, SandboxStatistics

Answer = TypeVar("Answer")


class GuestSandbox:
    """Made by `open_sandbox`; `destroy` is the only way that leaves nothing behind."""

    def __init__(self, boundary: Boundary, channel: Channel) -> None:
        self._boundary = boundary
        self._channel = channel
        self._spec = boundary.spec
        self._environment = base_environment(boundary.spec)

    @property
    def spec(self) -> SandboxSpec:
        """As granted."""
        return self._spec

    @property
    def backend(self) -> str:
        """The name of the backend that made it."""
        return self._boundary.backend

    @property
    def sandbox_id(self) -> str:
        """The id that it was booted with, or that its backend gave it."""
        return self._boundary.sandbox_id

    @cached_property
    def files(self) -> GuestFiles:
        """Its files."""
        return late.GuestFiles(self.launch, self.spec.user)

    async def ready(self) -> None:
        """Waits until the agent has answered and taken its configuration."""
        await self._channel.ready()

    def assign(self, spec: SandboxSpec) -> None:
        """See `abc.Assignable`; HOME is where the backend has put it."""
        self._channel.check()
        own = self._spec.user.home
        environment = tuple((name, own if name == "HOME" and value == spec.user.home else value) for name, value in spec.environment)
        if spec.linger_s != self._spec.linger_s:
            self._channel.configure(configuration_of(self._boundary, spec.linger_s))
        whose = replace(self._spec, name=spec.name, environment=environment, linger_s=spec.linger_s)
        self._spec = replace(whose, egress=spec.egress, egress_limits=spec.egress_limits, ports=spec.ports)
        self._environment = base_environment(self._spec)

    def when_lost(self, tell: Callable[[AgentKernelError], None]) -> None:
        """See `abc.Mortal`."""
        self._channel.when_lost(tell)

    def launch(self, start: Start) -> GuestProcess:
        """Sends a START as it is, without waiting for the answer; raises InvalidInput, SandboxLost."""
        return launch(self._channel, self._boundary, start)

    async def start(self, command: Command) -> GuestProcess:
        """Starts a command; see `abc.Sandbox`. A cancelled start leaves nothing running."""
        await self._channel.room()
        process = self.launch(self.start_of(command))
        return await _when_started(process)

    async def exec(self, command: Command, *, stdin: bytes = b"") -> ExecResult:
        """Runs one command to its end; see `abc.Sandbox`. A cancelled exec kills the command's whole tree."""
        await self._channel.room()
        process = self.launch(start_of(self.spec, self._environment, command, stdin=bool(stdin) or command.stdin))
        output = Collector(command.output_limit_bytes)
        process.pour(output)
        try:
            await feed(process, stdin)
            status = await process.wait()
        except asyncio.CancelledError:
            process.abandon()
            raise
        if status.cause is Cause.TIMEOUT:
            raise TimedOut(
                f"{shlex.quote(os.fsdecode(command.argv[0]))} ran longer than {command.timeout_s:g} seconds and was killed",
                hint="allow more time, or start it detached",
            )
        return ExecResult(
            status=status,
            stdout=output.kept(1),
            stderr=output.kept(2),
            stdout_truncated=output.truncated(1),
            stderr_truncated=output.truncated(2),
        )

    async def attach(self, exec_id: int) -> GuestProcess:
        """Takes up a process that an earlier host, or an earlier attach, started; its output goes on from what the ring still holds.

        Raises:
            NotFound: the agent does not know it.
        """
        if not 0 < exec_id < 2**64:
            raise InvalidInput(f"no process has the id {exec_id}")
        start = Start(argv=(), flags=StartFlag.DETACHED | StartFlag.STDIN, ring_bytes=RING_BYTES)
        return await adopt(self._channel, self._boundary, start, exec_id)

    async def connect(self, port: int) -> GuestProcess:
        """Connects to a TCP port on the sandbox's loopback; the process's stdin and stdout are the connection.

        It exits with an errno (ECONNREFUSED, ...) when the connection fails.
        """
        if not 0 < port < 65536:
            raise InvalidInput(f"there is no port {port}")
        user = self.spec.user
        return await _when_started(
            self.launch(
                Start(
                    argv=(b"tcp", str(port).encode()),
                    uid=user.uid,
                    gid=user.gid,
                    flags=StartFlag.STDIN,
                    ring_bytes=RING_BYTES,
                    builtin=Builtin.CONNECT,
                )
            )
        )

    def route(self, peer: TunnelPeer | None) -> TunnelPeer:
        """See `abc.Tunnelled`."""
        return self._channel.tunnels.route(peer)

    async def open_tunnel(self, port: int) -> HostTunnel:
        """See `abc.Tunnelled`; also raises InvalidInput for what is no port, and SandboxLost."""
        return await self._channel.tunnels.open(port)

    def relay(self, exec_id: int, start: Start, client: Client, opening: Callable[[int], bytes]) -> Relay:
        """Starts a command for a client of the daemon, under an id of its own; see `channel.relay`."""
        return late.start_relay(self._channel, self._boundary, exec_id, start, client, opening)

    async def resume(self, exec_id: int, offsets: tuple[int, int], client: Client) -> Relay:
        """Takes one up for a client, at its offsets; raises NotFound."""
        return await late.resume_relay(self._channel, self._boundary, exec_id, offsets, client)

    async def ask(self, kind: FrameType, payload: bytes = b"") -> bytes | Failure:
        """Passes a request on to the agent, whose answer is returned as it is."""
        return await self._channel.request(kind, payload)

    def record(self, exec_id: int, offsets: tuple[int, int], sink: Callable[[int, int, bytes], None]) -> Awaitable[ExitStatus]:
        """See `abc.Recordable`."""
        return late.record(self._channel, self._boundary, exec_id, offsets, sink)

    def start_of(self, command: Command) -> Start:
        """What starts a command here; raises InvalidInput for what no sandbox can run."""
        return start_of(self.spec, self._environment, command, stdin=command.stdin)

    async def processes(self) -> Sequence[ProcessRecord]:
        """What the agent started and still remembers."""
        return await self._ask(FrameType.LIST, late.parse_processes)

    async def kill_commands(self) -> None:
        """SIGKILL for the whole tree of every running command, whoever started it."""
        for record in await self.processes():
            if record.running:
                await self._channel.request(FrameType.SIGNAL, SIGNAL.pack(record.exec_id, 9, 1))

    async def statistics(self) -> SandboxStatistics:
        """Numbers from inside."""
        return await self._ask(FrameType.STATS, late.parse_statistics)

    async def close(self) -> None:
        """Lets go of the sandbox without ending anything in it; foreground commands end later as orphans."""
        await self._channel.close()
        await self._boundary.close()

    async def stop(self) -> None:
        """Kills everything inside and frees all but the files; see `abc.Sandbox`. Raises Unsupported where no files are kept."""
        await self._channel.close()
        await self._boundary.stop()

    async def destroy(self) -> None:
        """Kills everything inside and removes every trace on the host; repeating it is fine."""
        await self._channel.close()
        await self._boundary.destroy()

    async def _ask(self, kind: FrameType, parse: Callable[[bytes], Answer]) -> Answer:
        answer = await self._channel.request(kind)
        if isinstance(answer, Failure):
            raise SandboxFailed(f"the sandbox's agent refused {kind.name}: {os.strerror(answer.errno)}")
        try:
            return parse(answer)
        except ProtocolViolation as error:
            self._channel.fail(error)
            raise


async def _when_started(process: GuestProcess) -> GuestProcess:
    try:
        await process.started()
    except asyncio.CancelledError:
        process.abandon()
        raise
    return process


async def open_sandbox(boundary: Boundary, deadlines: Deadlines | None = None) -> GuestSandbox:
    """Attaches to a boundary's agent and configures it, without waiting for its answers: the first command travels with them.

    Raises:
        SandboxLost: nothing answers, or the boundary is dead.
    """
    return GuestSandbox(boundary, await open_channel(boundary, deadlines))
