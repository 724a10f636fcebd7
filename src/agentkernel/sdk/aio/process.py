"""Running commands: processes, streams of output, connections."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType

from agentkernel import abc
from agentkernel.channel.gather import Input, fed, finish
from agentkernel.errors import FileOperationFailed, InvalidInput, TimedOut
from agentkernel.model.command import Cause, Command, ExitStatus, TerminalSize
from agentkernel.sdk.given import data as given
from agentkernel.sdk.given import number as whole
from agentkernel.sdk.result import Chunk


class AsyncProcess:
    """A command in a sandbox. A background one goes on when its client ends; `AsyncSandbox.process(exec_id)` takes it up again.

    Every call raises SandboxLost when the sandbox died, or was stopped, meanwhile.
    """

    def __init__(self, process: abc.Process, *, takes_input: bool = True) -> None:
        self._process = process
        self._takes_input = takes_input

    @property
    def exec_id(self) -> int:
        """The id that survives clients and daemons: 1 to 2^64 - 1."""
        return self._process.exec_id

    @property
    def pid(self) -> int:
        """The pid as seen inside."""
        return self._process.pid

    async def write(self, data: bytes | str) -> None:
        """Sends input, waiting while the command does not read it; what comes after the command has closed its input is discarded.

        Raises InvalidInput for a command that was started without `stdin`, and for what is neither bytes nor text.
        """
        if not self._takes_input:
            raise InvalidInput("the command was started without input", hint="spawn(..., stdin=True)")
        await self._process.write_stdin(given("data", data))

    async def close_input(self) -> None:
        """Ends the input; on a terminal this types the end-of-file character."""
        await self._process.close_stdin()

    async def output(self) -> AsyncIterator[Chunk]:
        """Yields the output until the command ends, once. While nobody takes it the command waits after 256 KiB of each stream, and
        a background one goes on without its oldest output (`ExitStatus.output_lost`). Raises InvalidInput the second time."""
        async for stream, data in self._process.output():
            yield Chunk(stream=stream, data=data)

    async def wait(self) -> ExitStatus:
        """Waits for the end and tells how it was, a timeout included; output that nobody iterates is discarded. Repeating it is fine."""
        return await self._process.wait()

    async def signal(self, number: int, *, tree: bool = True) -> None:
        """Sends a signal (1-64, or `signal.SIGTERM`) to the whole tree, or to the main process alone; one that has ended is none to signal.

        Raises InvalidInput for what is no signal.
        """
        await self._process.signal(whole("a signal", number), tree=tree)

    async def kill(self) -> None:
        """SIGKILL for the whole process tree; `wait` then tells the end."""
        await self._process.kill()

    async def resize(self, rows: int, columns: int) -> None:
        """Sets the terminal's size, each 1-65535; without a terminal it does nothing. Raises InvalidInput for what is no size."""
        await self._process.resize(TerminalSize(rows=whole("rows", rows), columns=whole("columns", columns)))


class AsyncStream:
    """A foreground command whose output is read, once, while it runs. As a context manager it ends the command with the block.

    It is started when it is first iterated or entered. Every call raises what `AsyncSandbox.exec` raises.
    """

    def __init__(self, start: Callable[[], Awaitable[abc.Process]], command: Command, data: Input | None) -> None:
        self._start = start
        self._command = command
        self._data = data
        self._process: abc.Process | None = None
        self._output: AsyncIterator[tuple[int, bytes]] | None = None
        self._status: ExitStatus | None = None

    @property
    def status(self) -> ExitStatus:
        """How the command ended; raises InvalidInput before it has."""
        if self._status is None:
            raise InvalidInput("the command has not ended yet", hint="read its output to the end first")
        return self._status

    @property
    def exit_code(self) -> int:
        """0-255; 128 + n when signal n ended it. Known when the output has ended; raises InvalidInput before."""
        return self.status.exit_code

    async def __aenter__(self) -> AsyncStream:
        await self._started()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """Yields the output as it comes.

        Raises:
            TimedOut: after the last output, when the timeout ended the command.
        """
        process = await self._started()
        self._output = process.output()
        try:
            async with fed(process, self._data):
                async for stream, data in self._output:
                    yield Chunk(stream=stream, data=data)
                self._status = await process.wait()
        finally:
            await self.close()
        raise_timeout(self._status, self._command)

    async def close(self) -> None:
        """Kills the command's whole tree if it still runs."""
        if self._process is not None and self._status is None:
            self._status = await finish(self._process, self._output)

    async def _started(self) -> abc.Process:
        if self._process is None:
            self._process = await self._start()
        return self._process


class AsyncConnection:
    """A TCP connection to a port on the sandbox's own loopback. Nothing is opened on the host.

    Every call raises SandboxLost when the sandbox died, or was stopped, meanwhile.
    """

    def __init__(self, process: abc.Process, port: int) -> None:
        self._process = process
        self._port = port
        self._chunks: AsyncIterator[tuple[int, bytes]] | None = None

    async def send(self, data: bytes) -> None:
        """Sends, waiting while the other side does not read. Raises InvalidInput for what is no bytes."""
        await self._process.write_stdin(given("data", data))

    async def receive(self) -> bytes:
        """The next bytes, at most 64 KiB; empty when the other side has closed.

        Raises:
            FileOperationFailed: the connection failed, with its errno (ECONNREFUSED: nobody listens there).
        """
        if self._chunks is None:
            self._chunks = self._process.output()
        async for _, data in self._chunks:
            return data
        status = await self._process.wait()
        if status.exit_code and status.signal is None:
            raise FileOperationFailed("connect to", f"127.0.0.1:{self._port}", status.exit_code)
        return b""

    async def receive_all(self, *, limit_bytes: int = 16 * 1024 * 1024) -> bytes:
        """Everything until the other side closes; what is beyond `limit_bytes` is discarded. Raises what `receive` raises."""
        received = bytearray()
        while data := await self.receive():
            received += data[: limit_bytes - len(received)]
        return bytes(received)

    async def close_sending(self) -> None:
        """Tells the other side that no more comes; receiving goes on."""
        await self._process.close_stdin()

    async def close(self) -> None:
        """Closes the connection; repeating it is fine."""
        await finish(self._process, self._chunks)

    async def __aenter__(self) -> AsyncConnection:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()


def raise_timeout(status: ExitStatus, command: Command) -> None:
    """Raises TimedOut when the timeout ended a command."""
    if status.cause is Cause.TIMEOUT:
        name = shlex.quote(os.fsdecode(command.argv[0]))
        raise TimedOut(f"{name} ran longer than {command.timeout_s:g} seconds and was killed", hint="allow more time, or spawn it")
