"""The course of a command as its streams tell it: pieces of output, each at its offset, and the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

from agentkernel.abc import Process
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import Cause, ExitStatus
from agentkernel.text.outcome import exit_status


class Piece(NamedTuple):
    """Some output."""

    stream: int  # 1 stdout or the terminal, 2 stderr
    offset: int  # of its first byte, counted from the command's first one
    data: bytes


class Course(Protocol):
    """What a stream follows."""

    def output(self) -> AsyncGenerator[Piece, None]:
        """The output until the command's end, each byte once; iterate once, then ask for the end."""
        ...

    async def end(self) -> dict[str, Any]:
        """How it ended, as the last event of a stream tells it."""
        ...


class Foreground:
    """The course of a command that was started for this stream; it waits while nobody takes its output. Implements `Course`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._chunks: AsyncIterator[tuple[int, bytes]] | None = None
        self._ends = [0, 0, 0]
        self._has_ended = False

    async def output(self) -> AsyncGenerator[Piece, None]:
        """See `Course`."""
        self._chunks = self.process.output()
        async for stream, data in self._chunks:
            offset = self._ends[stream]
            self._ends[stream] += len(data)
            yield Piece(stream, offset, data)

    async def end(self) -> dict[str, Any]:
        """See `Course`."""
        status = await self.process.wait()
        self._has_ended = True
        return ended(status)

    async def close(self) -> None:
        """Kills its whole tree if it still runs, and waits for that."""
        if self._has_ended:
            return
        if isinstance(self._chunks, AsyncGenerator):
            await self._chunks.aclose()  # else what it has not yet taken would hold the end up
        await self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def foreground(process: Process) -> AsyncIterator[Foreground]:
    """A command that ends with the block."""
    course = Foreground(process)
    try:
        yield course
    finally:
        await course.close()


def ended(status: ExitStatus) -> dict[str, Any]:
    """The end of a command: `exit_code` is 124 for one that its timeout ended, and 128 + `signal` for one that a signal ended."""
    said: dict[str, Any] = {
        "exit_code": exit_status(status),
        "timed_out": status.cause is Cause.TIMEOUT,
        "cause": status.cause.value,
        "limits": [limit.value for limit in status.limits_hit],
        "survivors": status.survivors,
        "output_lost": status.output_lost,
        "wall_s": status.wall_s,
        "user_cpu_s": status.user_cpu_s,
        "system_cpu_s": status.system_cpu_s,
        "max_rss_bytes": status.max_rss_bytes,
    }
    return said if status.signal is None else {**said, "signal": status.signal}


def not_started(error: AgentKernelError) -> dict[str, Any]:
    """The end of a command that did not start: 127 there is none, 126 it cannot be executed, 125 anything else."""
    said: dict[str, Any] = {"exit_code": error.exit_status, "timed_out": False, "error": error.message, "code": error.code}
    return {**said, "hint": error.hint} if error.hint else said


def ended_as_told(details: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The end of a command as the audit trail tells it (`exec.ended`)."""
    found = dict(details)
    timed_out = found.get("cause") == Cause.TIMEOUT.value
    code = int(found.get("exit_code", "125"))
    return {
        "exit_code": 124 if timed_out else code,
        "timed_out": timed_out,
        "cause": found.get("cause", ""),
        "limits": found.get("limits", "").split(),
        "wall_s": float(found.get("wall_s", "0")),
    }
