"""What flows through the command line: processes of it with pipes, or on a terminal of their own."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

_PIECE = 65536
_ON_TERMINAL = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"


@asynccontextmanager
async def piped(words: Sequence[str], environment: Mapping[str, str], directory: Path) -> AsyncIterator[Piped]:
    """A verb with pipes at all its streams; killed at the end of the block, if it has not ended."""
    argv = (sys.executable, "-m", "agentkernel", *words)
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*argv, **pipes, env=dict(environment), cwd=directory)
    talk = Piped(process)
    try:
        yield talk
    finally:
        if process.returncode is None:
            process.kill()
        await talk.end()
        await process.wait()


class Piped:
    """What is said to a command and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._pieces: asyncio.Queue[SimpleNamespace | None] = asyncio.Queue()
        self._reading = [asyncio.create_task(self._read(1, process.stdout)), asyncio.create_task(self._read(2, process.stderr))]

    async def _read(self, stream: int, source: asyncio.StreamReader | None) -> None:
        assert source is not None
        while data := await source.read(_PIECE):
            self._pieces.put_nowait(SimpleNamespace(stream=stream, data=data))
        self._pieces.put_nowait(None)

    async def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def close_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.stdin.wait_closed()

    async def output(self) -> AsyncIterator[SimpleNamespace]:
        open_streams = 2
        while open_streams:
            piece = await self._pieces.get()
            if piece is None:
                open_streams -= 1
            else:
                yield piece

    async def wait(self) -> SimpleNamespace:
        return SimpleNamespace(exit_code=await self._process.wait())

    async def end(self) -> None:
        """Lets go of the pipes."""
        await asyncio.gather(*self._reading)
        if self._process.stdin is not None:
            self._process.stdin.close()


@asynccontextmanager
async def on_terminal(
    words: Sequence[str], environment: Mapping[str, str], directory: Path, size: tuple[int, int]
) -> AsyncIterator[OnTerminal]:
    """A verb on a terminal of its own; killed at the end of the block, if it has not ended."""
    master, slave = pty.openpty()
    terminal = OnTerminal(master)
    await terminal.resize(*size)
    argv = (sys.executable, "-c", _ON_TERMINAL, sys.executable, "-m", "agentkernel", *words)
    try:
        try:
            terminal.process = await asyncio.create_subprocess_exec(
                *argv, stdin=slave, stdout=slave, stderr=slave, env={**environment, "TERM": "xterm-256color"}, cwd=directory
            )
        finally:
            os.close(slave)
        try:
            yield terminal
        finally:
            if terminal.process.returncode is None:
                terminal.process.kill()
            await terminal.process.wait()
    finally:
        os.close(master)


class OnTerminal:
    """What is typed and what is shown."""

    process: asyncio.subprocess.Process

    def __init__(self, master: int) -> None:
        self._master = master
        os.set_blocking(master, False)

    async def write(self, data: bytes) -> None:
        assert os.write(self._master, data) == len(data)

    async def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def output(self) -> AsyncIterator[SimpleNamespace]:
        loop = asyncio.get_running_loop()
        while True:
            readable = loop.create_future()
            loop.add_reader(self._master, lambda future=readable: future.done() or future.set_result(None))
            try:
                await readable
                data = os.read(self._master, _PIECE)
            except OSError as error:
                if error.errno != errno.EIO:  # nobody has the other end any more
                    raise
                return
            finally:
                loop.remove_reader(self._master)
            yield SimpleNamespace(stream=1, data=data)

    async def wait(self) -> SimpleNamespace:
        return SimpleNamespace(exit_code=await self.process.wait())
