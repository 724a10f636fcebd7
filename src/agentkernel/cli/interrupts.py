"""Signals that end a run. The first asks: before the command runs it cancels the work, then it is passed to the command's whole
tree. A second signal, or 2 s of waiting, kills. What the command's last output is written to may be stuck for ever (a paused
pager), so 1 s later the work is cancelled. Everything is removed before the process exits with 128 + the first signal; a further
signal does not wait for that, where a daemon does it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum

from agentkernel.abc import Process
from agentkernel.errors import AgentKernelError

GRACE_S = 2.0
DRAIN_S = 1.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class _Phase(Enum):
    BEFORE = "before the command"
    COMMAND = "the command runs"
    AFTER = "the sandbox is being removed"


class Interrupts:
    """The signals of one run."""

    def __init__(self) -> None:
        self.number: int | None = None  # the first signal that came
        self._phase = _Phase.BEFORE
        self._cancel: Callable[[], object] = _nothing_to_cancel
        self._first = asyncio.Event()
        self._second = asyncio.Event()

    @contextmanager
    def of(self, work: asyncio.Task[None]) -> Iterator[None]:
        """Owns the signal handlers for the length of the block; `work` is what signals cancel."""
        loop = asyncio.get_running_loop()
        self._cancel = work.cancel
        numbers = _taken()
        for number in numbers:
            loop.add_signal_handler(number, self._arrived, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    @asynccontextmanager
    async def passed_to(self, process: Process) -> AsyncIterator[None]:
        """While in the block, signals end the command."""
        self._phase = _Phase.COMMAND
        task = asyncio.create_task(self._pass_on(process))
        try:
            yield
        finally:
            self._phase = _Phase.AFTER
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _pass_on(self, process: Process) -> None:
        await self._first.wait()
        told = asyncio.create_task(self._tell(process))
        second = asyncio.create_task(self._second.wait())
        try:
            await asyncio.wait((told, second), timeout=GRACE_S, return_when=asyncio.FIRST_COMPLETED)
            if told.done() and told.result():
                await asyncio.wait((second,), timeout=GRACE_S)
        finally:
            for task in (told, second):
                task.cancel()
            await asyncio.gather(told, second, return_exceptions=True)
        await process.kill()
        await asyncio.sleep(DRAIN_S)
        self._cancel()

    async def _tell(self, process: Process) -> bool:
        """Whether it can have heard; a daemon elsewhere may be away, and is waited for."""
        try:
            await process.signal(self.number or signal.SIGINT, tree=True)
        except AgentKernelError:  # it has just ended
            return False
        return True

    def _arrived(self, number: int) -> None:
        if self._phase is _Phase.AFTER:
            if self.number is not None:
                self._cancel()
            return
        if self.number is not None:
            self._second.set()
            return
        self.number = number
        self._first.set()
        if self._phase is _Phase.BEFORE:
            self._cancel()


@contextmanager
def cancelled_by_signals(work: asyncio.Future[None]) -> Iterator[list[int]]:
    """Each signal that would end the process cancels `work` in place of that while the block lasts; yields those that came."""
    loop = asyncio.get_running_loop()
    arrived: list[int] = []

    def arrive(number: int) -> None:
        arrived.append(number)
        work.cancel()

    numbers = _taken()
    for number in numbers:
        loop.add_signal_handler(number, arrive, number)
    try:
        yield arrived
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _taken() -> list[signal.Signals]:
    """Those that are not ignored, as nohup and `sh -c '... &'` set it, for a reason."""
    return [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]


def _nothing_to_cancel() -> None:
    """No work has begun."""
