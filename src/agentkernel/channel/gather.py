"""Gathering what any process prints, and giving it its input beside that: for front ends, over `abc.Process`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

from agentkernel.abc import Process
from agentkernel.errors import AgentKernelError, InvalidInput
from agentkernel.model.command import Command, ExecResult, ExitStatus

Piece = bytes | bytearray | memoryview | str
Input = Piece | Iterable[Piece] | AsyncIterable[Piece]


async def collect(process: Process, data: Input | None, command: Command) -> ExecResult:
    """Feeds a process (None: it has no input) and keeps the first bytes of each stream; kills it when that fails or the caller gives up."""
    kept, truncated = (bytearray(), bytearray()), [False, False]

    def take(stream: int, piece: bytes) -> None:
        room = command.output_limit_bytes - len(kept[stream - 1])
        truncated[stream - 1] |= len(piece) > room
        kept[stream - 1].extend(piece[:room])

    return ExecResult(
        status=await taken(process, data, take),
        stdout=bytes(kept[0]),
        stderr=bytes(kept[1]),
        stdout_truncated=truncated[0],
        stderr_truncated=truncated[1],
    )


async def taken(process: Process, data: Input | None, take: Callable[[int, bytes], None]) -> ExitStatus:
    """Feeds a process and hands over all that it prints; kills it when that fails or the caller gives up."""
    output = process.output()
    try:
        async with fed(process, data):
            async for stream, piece in output:
                take(stream, piece)
            return await process.wait()
    except BaseException:
        with suppress(AgentKernelError):  # of a sandbox that is lost: what came first is what is told
            await finish(process, output)
        raise


async def finish(process: Process, output: AsyncIterator[tuple[int, bytes]] | None) -> ExitStatus:
    """Kills the whole tree of a process whose output somebody may have begun to read, and waits for its end."""
    if isinstance(output, AsyncGenerator):
        await output.aclose()  # else what it has not yet taken would hold the end up
    await process.kill()
    return await process.wait()


@asynccontextmanager
async def fed(process: Process, data: Input | None) -> AsyncIterator[None]:
    """Gives a process its input beside the block. When the input fails the process is killed, and the block's end raises what it raised."""
    if data is None:
        yield
        return
    feeding = asyncio.create_task(_feed(process, data))
    try:
        yield
    finally:
        feeding.cancel()
        outcome = (await asyncio.gather(feeding, return_exceptions=True))[0]
    if isinstance(outcome, Exception):
        raise outcome


async def _feed(process: Process, data: Input) -> None:
    try:
        async for piece in _pieces(data):
            await process.write_stdin(piece)
    except Exception:
        await process.kill()
        raise
    await process.close_stdin()


async def _pieces(data: Input) -> AsyncIterator[bytes]:
    if (whole := whole_of(data)) is not None:
        yield whole
    elif isinstance(data, AsyncIterable):
        async for piece in data:
            yield _bytes_of(piece)
    elif isinstance(data, Iterable):
        for each in data:
            yield _bytes_of(each)


def whole_of(data: object) -> bytes | None:
    """Input that is all there, as bytes; None for one that comes in pieces. Raises InvalidInput for what is neither."""
    if isinstance(data, bytes | bytearray | memoryview | str):
        return _bytes_of(data)
    if isinstance(data, Iterable | AsyncIterable):
        return None
    raise InvalidInput(f"a command's input is text, bytes or an iterable of bytes, not {type(data).__name__}")


def _bytes_of(piece: object) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    raise InvalidInput(f"a command's input is made of bytes, not of {type(piece).__name__}")
