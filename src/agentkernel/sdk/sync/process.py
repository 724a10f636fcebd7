"""Running commands, from threads: the twins of `sdk.aio.process`, whose docstrings tell more."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from agentkernel.channel.gather import Piece
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import ExitStatus
from agentkernel.sdk.aio.process import AsyncConnection, AsyncProcess, AsyncStream
from agentkernel.sdk.result import Chunk
from agentkernel.sdk.sync.portal import Portal

T = TypeVar("T")
Input = Piece | Iterable[Piece]


class Process:
    """A command in a sandbox. A background one goes on when its client ends; `Sandbox.process(exec_id)` takes it up again.

    Every call raises SandboxLost when the sandbox died, or was stopped, meanwhile.
    """

    def __init__(self, portal: Portal, process: AsyncProcess) -> None:
        self._portal = portal
        self._async = process

    @property
    def exec_id(self) -> int:
        """The id that survives clients and daemons: 1 to 2^64 - 1."""
        return self._async.exec_id

    @property
    def pid(self) -> int:
        """The pid as seen inside."""
        return self._async.pid

    def write(self, data: bytes | str) -> None:
        """Sends input, waiting while the command does not read it; what comes after the command has closed its input is discarded.

        Raises InvalidInput for a command that was started without `stdin`, and for what is neither bytes nor text.
        """
        self._portal.call(lambda: self._async.write(data))

    def close_input(self) -> None:
        """Ends the input; on a terminal this types the end-of-file character."""
        self._portal.call(self._async.close_input)

    def output(self) -> Iterator[Chunk]:
        """Yields the output until the command ends, once. While nobody takes it the command waits after 256 KiB of each stream, and
        a background one goes on without its oldest output (`ExitStatus.output_lost`). Raises InvalidInput the second time."""
        return self._portal.iterate(self._async.output)

    def wait(self) -> ExitStatus:
        """Waits for the end and tells how it was, a timeout included; output that nobody iterates is discarded. Repeating it is fine."""
        return self._portal.call(self._async.wait)

    def signal(self, number: int, *, tree: bool = True) -> None:
        """Sends a signal (1-64, or `signal.SIGTERM`) to the whole tree, or to the main process alone; one that has ended is none to signal.

        Raises InvalidInput for what is no signal.
        """
        self._portal.call(lambda: self._async.signal(number, tree=tree))

    def kill(self) -> None:
        """SIGKILL for the whole process tree; `wait` then tells the end."""
        self._portal.call(self._async.kill)

    def resize(self, rows: int, columns: int) -> None:
        """Sets the terminal's size, each 1-65535; without a terminal it does nothing. Raises InvalidInput for what is no size."""
        self._portal.call(lambda: self._async.resize(rows, columns))


class Stream:
    """A foreground command whose output is read, once, while it runs. As a context manager it ends the command with the block.

    It is started when it is first iterated or entered. Every call raises what `Sandbox.exec` raises.
    """

    def __init__(self, portal: Portal, stream: AsyncStream) -> None:
        self._portal = portal
        self._async = stream

    @property
    def status(self) -> ExitStatus:
        """How the command ended; raises InvalidInput before it has."""
        return self._async.status

    @property
    def exit_code(self) -> int:
        """0-255; 128 + n when signal n ended it. Known when the output has ended; raises InvalidInput before."""
        return self._async.exit_code

    def __iter__(self) -> Iterator[Chunk]:
        """Yields the output as it comes; raises TimedOut after the last output, when the timeout ended the command."""
        return self._portal.iterate(self._async.__aiter__)

    def close(self) -> None:
        """Kills the command's whole tree if it still runs."""
        self._portal.call(self._async.close)

    def __enter__(self) -> Stream:
        self._portal.call(self._async.__aenter__)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


class Connection:
    """A TCP connection to a port on the sandbox's own loopback. Nothing is opened on the host.

    Every call raises SandboxLost when the sandbox died, or was stopped, meanwhile.
    """

    def __init__(self, portal: Portal, connection: AsyncConnection) -> None:
        self._portal = portal
        self._async = connection

    def send(self, data: bytes) -> None:
        """Sends, waiting while the other side does not read. Raises InvalidInput for what is no bytes."""
        self._portal.call(lambda: self._async.send(data))

    def receive(self) -> bytes:
        """The next bytes, at most 64 KiB; empty when the other side has closed.

        Raises:
            FileOperationFailed: the connection failed, with its errno (ECONNREFUSED: nobody listens there).
        """
        return self._portal.call(self._async.receive)

    def receive_all(self, *, limit_bytes: int = 16 * 1024 * 1024) -> bytes:
        """Everything until the other side closes; what is beyond `limit_bytes` is discarded. Raises what `receive` raises."""
        return self._portal.call(lambda: self._async.receive_all(limit_bytes=limit_bytes))

    def close_sending(self) -> None:
        """Tells the other side that no more comes; receiving goes on."""
        self._portal.call(self._async.close_sending)

    def close(self) -> None:
        """Closes the connection; repeating it is fine."""
        self._portal.call(self._async.close)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


async def pieces(source: Iterable[T]) -> AsyncIterator[T]:
    """What an iterable gives that may block, for ever even: it is asked in a thread of its own, which holds up neither the loop nor the
    end of the client or the program."""
    loop = asyncio.get_running_loop()
    wanted: queue.SimpleQueue[asyncio.Future[list[T]] | None] = queue.SimpleQueue()
    threading.Thread(target=_give, args=(iter(source), loop, wanted), name="agentkernel input", daemon=True).start()
    try:
        while True:
            piece: asyncio.Future[list[T]] = loop.create_future()
            wanted.put(piece)
            if not await piece:
                return
            yield piece.result()[0]
    finally:
        wanted.put(None)


def _give(iterator: Iterator[T], loop: asyncio.AbstractEventLoop, wanted: queue.SimpleQueue[asyncio.Future[list[T]] | None]) -> None:
    while (piece := wanted.get()) is not None:
        found: list[T] = []
        error: BaseException | None = None
        try:
            found = _next(iterator)
        except BaseException as caught:  # noqa: BLE001 - the caller's own, who is given it
            error = caught
        try:
            loop.call_soon_threadsafe(_settle, piece, found, error)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits
            return


def _settle(piece: asyncio.Future[list[T]], found: list[T], error: BaseException | None) -> None:
    if piece.done():
        return
    if error is None:
        piece.set_result(found)
    else:
        piece.set_exception(error)


def _next(iterator: Iterator[T]) -> list[T]:
    try:
        return [next(iterator)]
    except StopIteration:
        return []
    except (SystemExit, KeyboardInterrupt) as error:
        raise AgentKernelError(f"the input ended with {type(error).__name__}") from error  # as it is it would end the loop
