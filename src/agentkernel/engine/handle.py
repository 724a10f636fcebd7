"""What callers hold of a sandbox: a light handle on the one that the engine holds. What passes through it is audited and counts as use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from agentkernel.abc import Caller, Files, Process, Sandbox
from agentkernel.engine.locks import host_errors
from agentkernel.engine.registry import Live
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import Command, ExecResult, ExitStatus, TerminalSize
from agentkernel.model.inspection import ProcessRecord, SandboxStatistics
from agentkernel.model.spec import SandboxSpec

T = TypeVar("T")


class Desk(Protocol):
    """What a handle reports to."""

    def started(self, caller: Caller, live: Live, command: Command, exec_id: int) -> None:
        """A command was passed on; 0: its id is not known."""
        ...

    def ended(self, caller: Caller, live: Live, exec_id: int, status: ExitStatus | None, error: str = "") -> None:
        """It ended, or with `error` (a code) was lost or never started."""
        ...

    def touch(self, live: Live) -> None:
        """The sandbox is used."""
        ...

    def suspect(self, live: Live, error: AgentKernelError) -> None:
        """A call failed: if the sandbox has died, its row is to say so."""
        ...

    async def stop_of(self, caller: Caller, live: Live) -> None:
        """Stops it."""
        ...

    async def destroy_of(self, caller: Caller, live: Live) -> None:
        """Removes it."""
        ...


class SharedSandbox:
    """Implements `abc.Sandbox`. `close` lets go of this handle alone; `stop` and `destroy` are the engine's, for everybody."""

    def __init__(self, live: Live, desk: Desk, caller: Caller) -> None:
        self._live = live
        self._desk = desk
        self._caller = caller
        self._inner = live.sandbox

    @property
    def inner(self) -> Sandbox:
        """The backend's own handle, for who passes on frames; what is done with it must be told to the engine."""
        return self._inner

    @property
    def live(self) -> Live:
        """What the engine knows about it."""
        return self._live

    @property
    def spec(self) -> SandboxSpec:
        """As granted."""
        return self._inner.spec

    @property
    def backend(self) -> str:
        """The name of the backend that made it."""
        return self._inner.backend

    @property
    def sandbox_id(self) -> str:
        """16 hexadecimal digits."""
        return self._live.sandbox_id

    @property
    def files(self) -> Files:
        """Its files; asking for them counts as use."""
        self._desk.touch(self._live)
        return self._inner.files

    async def start(self, command: Command) -> Process:
        """See `abc.Sandbox`."""
        try:
            process = await self._checked(self._inner.start(command))
        except BaseException as error:
            self._desk.started(self._caller, self._live, replace(command, detached=False), 0)
            self._failed(0, error)
            raise
        self._desk.started(self._caller, self._live, command, process.exec_id)
        return process if command.detached else WatchedProcess(process, self._ended)

    async def exec(self, command: Command, *, stdin: bytes = b"") -> ExecResult:
        """See `abc.Sandbox`."""
        self._desk.started(self._caller, self._live, command, 0)
        try:
            result = await self._checked(self._inner.exec(command, stdin=stdin))
        except BaseException as error:
            self._failed(0, error)
            raise
        self._desk.ended(self._caller, self._live, 0, result.status)
        return result

    async def processes(self) -> Sequence[ProcessRecord]:
        """See `abc.Sandbox`."""
        return await self._watched(self._inner.processes())

    async def statistics(self) -> SandboxStatistics:
        """See `abc.Sandbox`."""
        return await self._watched(self._inner.statistics())

    async def connect(self, port: int) -> Process:
        """See `abc.Sandbox`."""
        self._desk.touch(self._live)
        return await self._watched(self._inner.connect(port))

    async def attach(self, exec_id: int) -> Process:
        """See `abc.Sandbox`."""
        self._desk.touch(self._live)
        return await self._watched(self._inner.attach(exec_id))

    async def kill_commands(self) -> None:
        """See `abc.Sandbox`."""
        await self._watched(self._inner.kill_commands())

    async def close(self) -> None:
        """Lets go of this handle; the sandbox, and everybody else's handles, are as they were."""

    async def stop(self) -> None:
        """See `abc.Kernel.stop`."""
        await self._desk.stop_of(self._caller, self._live)

    async def destroy(self) -> None:
        """See `abc.Kernel.remove`, forced."""
        await self._desk.destroy_of(self._caller, self._live)

    async def _watched(self, call: Awaitable[T]) -> T:
        try:
            return await self._checked(call)
        except AgentKernelError as error:
            self._desk.suspect(self._live, error)
            raise

    async def _checked(self, call: Awaitable[T]) -> T:
        with host_errors():
            return await call

    def _failed(self, exec_id: int, error: BaseException) -> None:
        code = error.code if isinstance(error, AgentKernelError) else "cancelled"
        self._desk.ended(self._caller, self._live, exec_id, None, code)
        if isinstance(error, AgentKernelError):
            self._desk.suspect(self._live, error)

    def _ended(self, exec_id: int, status: ExitStatus | None, error: AgentKernelError | None) -> None:
        if error is None:
            self._desk.ended(self._caller, self._live, exec_id, status)
        else:
            self._failed(exec_id, error)


class WatchedProcess:
    """Implements `abc.Process` over another; tells once how it ended, when whoever waits for it learns that."""

    def __init__(self, process: Process, ended: Callable[[int, ExitStatus | None, AgentKernelError | None], None]) -> None:
        self._process = process
        self._ended = ended
        self._told = False

    @property
    def exec_id(self) -> int:
        """The id that survives re-attachment."""
        return self._process.exec_id

    @property
    def pid(self) -> int:
        """The pid as seen inside."""
        return self._process.pid

    async def write_stdin(self, data: bytes) -> None:
        """See `abc.Process`."""
        await self._process.write_stdin(data)

    async def close_stdin(self) -> None:
        """See `abc.Process`."""
        await self._process.close_stdin()

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """See `abc.Process`."""
        return self._process.output()

    async def wait(self) -> ExitStatus:
        """See `abc.Process`."""
        try:
            status = await self._process.wait()
        except AgentKernelError as error:
            self._tell(None, error)
            raise
        self._tell(status, None)
        return status

    async def signal(self, number: int, *, tree: bool = False) -> None:
        """See `abc.Process`."""
        await self._process.signal(number, tree=tree)

    async def resize(self, size: TerminalSize) -> None:
        """See `abc.Process`."""
        await self._process.resize(size)

    async def kill(self) -> None:
        """See `abc.Process`."""
        await self._process.kill()

    def _tell(self, status: ExitStatus | None, error: AgentKernelError | None) -> None:
        if not self._told:
            self._told = True
            self._ended(self.exec_id, status, error)
