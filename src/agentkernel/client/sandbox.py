"""A sandbox behind the daemon: the channel's own `GuestSandbox`, over a connection to the daemon in place of one to an agent."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentkernel import channel as late  # what is only needed to look into a sandbox
from agentkernel.channel.commands import RING_BYTES
from agentkernel.channel.dialect import OfDoor
from agentkernel.channel.door import encode_addressed
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import SIGNAL, Failure, Start, StartFlag, encode_start
from agentkernel.channel.outcome import DoorOutcome
from agentkernel.channel.process import GuestProcess
from agentkernel.channel.sandbox import GuestSandbox
from agentkernel.channel.streams import InputWindow, OutputQueue
from agentkernel.client.connection import Connection, Daemon
from agentkernel.errors import InvalidInput, NotFound, SandboxFailed, SandboxLost
from agentkernel.model.command import LimitHit
from agentkernel.model.spec import SandboxSpec

if TYPE_CHECKING:
    from agentkernel.model.inspection import ProcessRecord, SandboxStatistics

_SIGKILL, _WHOLE_TREE = 9, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Implements `channel.boundary.Boundary`: what a boundary does is asked of the daemon, what it is was told by it."""

    daemon: Daemon
    backend: str
    sandbox_id: str
    spec: SandboxSpec
    on_stop: Callable[[], Awaitable[object]]
    on_destroy: Callable[[], Awaitable[object]]
    seccomp: bytes = b""  # it is the daemon that configures the agent
    rlimits: tuple[tuple[int, int, int], ...] = ()
    network: None = None
    address: str = ""  # what commands are addressed to, where that is not the id: NAME@ID

    async def connect(self) -> socket.socket:
        """Connects to the daemon."""
        return await self.daemon.connect()

    async def wait_dead(self) -> str:
        """Waits for ever: that the sandbox is gone is the answer to what is asked of it."""
        return await self.daemon.wait_dead()

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        """None of its own: the daemon tells each command's with its end."""
        return ()

    async def close(self) -> None:
        """Nothing: the connection is all there is."""

    async def stop(self) -> None:
        """Ends everything in it and keeps its files."""
        await self.on_stop()

    async def destroy(self) -> None:
        """Removes it with its files."""
        await self.on_destroy()


class DoorSandbox(GuestSandbox):
    """Made by `open_behind_door`."""

    def __init__(self, door: Door, connection: Connection) -> None:
        super().__init__(door, connection)
        self._name = door.sandbox_id
        self._address = door.address or door.sandbox_id
        self._connection = connection

    @property
    def address(self) -> str:
        """What it was opened by: its id, or NAME@ID; NotFound, with nothing done, for a command when there is no such sandbox any more."""
        return self._address

    def launch(self, start: Start) -> GuestProcess:
        """Sends a START as it is, without waiting for the answer; raises InvalidInput, DaemonUnavailable."""
        payload = encode_addressed(self._address, encode_start(start))
        lossy = bool(start.flags & StartFlag.DETACHED)
        stdin = InputWindow(wanted=bool(start.flags & StartFlag.STDIN))
        return self._process(payload, start, OutputQueue(start.ring_bytes, lossy=lossy), stdin, 0)

    async def attach(self, exec_id: int) -> GuestProcess:
        """Takes up a process; see `GuestSandbox.attach`."""
        if not 0 < exec_id < 2**64:
            raise InvalidInput(f"no process has the id {exec_id}")
        start = Start(argv=(), flags=StartFlag.DETACHED | StartFlag.STDIN, ring_bytes=RING_BYTES)
        known = self._connection.execution(exec_id)
        if known is not None and known.outcome is not None:
            return GuestProcess(self._connection, known, start, known.outcome)  # started here: it has one reader, as in process
        output = OutputQueue(start.ring_bytes, lossy=True)
        process = self._process(b"", start, output, InputWindow(wanted=True, adopted=True), exec_id)
        try:
            await process.started()
        except SandboxLost:
            self._connection.check()
            raise NotFound(f"the sandbox has no process {exec_id:016x}", hint="`agentkernel ps` lists them") from None
        return process

    async def processes(self) -> Sequence[ProcessRecord]:
        """What the agent started and still remembers."""
        return late.parse_processes(await self._ask_addressed(FrameType.LIST))

    async def statistics(self) -> SandboxStatistics:
        """Numbers from inside."""
        return late.parse_statistics(await self._ask_addressed(FrameType.STATS))

    async def kill_commands(self) -> None:
        """SIGKILL for the whole tree of every running command, whoever started it."""
        for record in await self.processes():
            if record.running:
                signal = SIGNAL.pack(record.exec_id, _SIGKILL, _WHOLE_TREE)
                await self._connection.request(FrameType.SIGNAL, encode_addressed(self._name, signal))

    def _process(self, payload: bytes, start: Start, output: OutputQueue, stdin: InputWindow, exec_id: int) -> GuestProcess:
        dialect = OfDoor(self._name)
        execution = self._connection.start(payload, output=output, stdin=stdin, ident=exec_id, dialect=dialect)
        execution.outcome = DoorOutcome(execution, dialect)
        return GuestProcess(self._connection, execution, start, execution.outcome)

    async def _ask_addressed(self, kind: FrameType) -> bytes:
        answer = await self._connection.request(kind, encode_addressed(self._name))
        if isinstance(answer, Failure):
            raise SandboxFailed(f"the sandbox's agent refused {kind.name}: {answer.text}")
        return answer


async def open_behind_door(door: Door) -> DoorSandbox:
    """A sandbox over a connection of its own, whose end is the end of the foreground commands that go over it."""
    connection = Connection(door.daemon)
    await connection.open()
    return DoorSandbox(door, connection)
