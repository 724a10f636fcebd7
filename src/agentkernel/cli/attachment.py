"""Joining a command that runs: what `attach` does once it knows which."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from agentkernel import cli as late  # what only some attachments need
from agentkernel.abc import Caller, Kernel, Process
from agentkernel.cli.streams import Writer, is_gone, read_chunks
from agentkernel.cli.terminal import terminal_size
from agentkernel.errors import AgentKernelError, InvalidInput, NotFound
from agentkernel.model.command import Command
from agentkernel.model.inspection import ProcessRecord
from agentkernel.text.outcome import exit_status

EXIT_BROKEN_PIPE = 141
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def choose(records: Sequence[ProcessRecord], wanted: int | None) -> ProcessRecord | None:
    """The record of that id, or the newest; None where nothing runs and none is wanted."""
    if wanted is None:
        return max(records, key=lambda record: record.started_unix_ms, default=None)
    for record in records:
        if record.exec_id == wanted:
            return record
    raise NotFound(f"no command {wanted:016x} runs there", hint="`agentkernel ps NAME` shows what runs; `agentkernel logs` what was said")


def parse_keys(text: str) -> bytes:
    """The bytes of `ctrl-p,ctrl-q` or `ctrl-],x`."""
    keys = bytearray()
    for word in text.split(",") if text else ():
        name = word.removeprefix("ctrl-")
        if len(name) != 1 or not name.isascii() or not name.isprintable():
            raise InvalidInput(f"{word!r} is no key", hint="write single characters or ctrl-CHARACTER, such as ctrl-p,ctrl-q")
        keys.append(ord(name) if name == word else ord(name.upper()) & 0x1F)
    return bytes(keys)


class KeyFilter:
    """Finds the keys that leave in what is typed; what merely begins like them is held back until the next key shows it."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the keys were typed behind it."""
        if not self._keys:
            return data, False
        text = self._held + data
        found = text.find(self._keys)
        if found >= 0:
            return text[:found], True
        held = next((count for count in range(len(self._keys) - 1, 0, -1) if text.endswith(self._keys[:count])), 0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What to join and how."""

    name: str
    exec_id: int | None  # None: start `shell`
    shell: Command
    keys: bytes  # that leave
    feeds: bool
    raw: bool
    follows_size: bool

    async def run(self, kernel: Kernel, caller: Caller) -> tuple[int, int]:
        """Returns the id of a command that was left running (else 0), and what to exit with."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(kernel.close)
            sandbox = await kernel.open(caller, self.name)
            stack.push_async_callback(sandbox.close)
            process = await (sandbox.start(self.shell) if self.exec_id is None else sandbox.attach(self.exec_id))
            ends = await stack.enter_async_context(_ended_by_signals())
            if self.raw:
                stack.enter_context(late.RawTerminal(0))
            if self.follows_size:
                await stack.enter_async_context(_sized(process, redraws=self.exec_id is not None))
            return await self._attend(process, ends)

    async def _attend(self, process: Process, ends: asyncio.Future[int]) -> tuple[int, int]:
        shown: asyncio.Future[int] = asyncio.ensure_future(_show(process))
        left = asyncio.ensure_future(self._feed(process) if self.feeds else _never())
        try:
            while not shown.done():
                await asyncio.wait((shown, left, ends), return_when=asyncio.FIRST_COMPLETED)
                if ends.done():
                    return process.exec_id, 128 + ends.result()
                if left.done() and left.result():
                    return process.exec_id, 0
                if left.done():  # our input ended, the command's output has not
                    left = asyncio.ensure_future(_never())
            return 0, shown.result()
        finally:
            for task in (shown, left):
                task.cancel()
            await asyncio.gather(shown, left, return_exceptions=True)

    async def _feed(self, process: Process) -> bool:
        """Passes our input on; True when the keys that leave were typed."""
        keys = KeyFilter(self.keys if self.raw else b"")
        async for data in read_chunks(0):
            passed, leaves = keys.take(data)
            if passed:
                await process.write_stdin(passed)
            if leaves:
                return True
        await process.close_stdin()
        return False


async def _never() -> bool:
    return await asyncio.Event().wait()


async def _show(process: Process) -> int:
    writer = Writer()
    try:
        async for stream, data in process.output():
            await writer.write(stream, data)
    except OSError as error:
        if not is_gone(error):
            raise AgentKernelError(f"cannot write the command's output: {error.strerror}") from error
        return EXIT_BROKEN_PIPE
    return exit_status(await process.wait())


@asynccontextmanager
async def _ended_by_signals() -> AsyncIterator[asyncio.Future[int]]:
    """A future with the signal that ends the attachment; the command is none of its business."""
    loop = asyncio.get_running_loop()
    ends: asyncio.Future[int] = loop.create_future()

    def arrived(number: int) -> None:
        if not ends.done():
            ends.set_result(number)

    for number in _ENDING:
        loop.add_signal_handler(number, arrived, number)
    try:
        yield ends
    finally:
        for number in _ENDING:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _sized(process: Process, *, redraws: bool) -> AsyncIterator[None]:
    """Keeps the command's terminal at the size of ours. `redraws`: a program redraws its screen when the size changes, so it does."""
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    size = terminal_size()
    if redraws and size.columns > 1:
        await process.resize(replace(size, columns=size.columns - 1))
    await process.resize(size)

    async def follow() -> None:
        while True:
            await changed.wait()
            changed.clear()
            await process.resize(terminal_size())

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
