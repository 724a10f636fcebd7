"""Records what detached commands print, for as long as they run, and goes on with it in the next engine."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from agentkernel.abc import Recordable
from agentkernel.engine.core import Core
from agentkernel.engine.logfile import LogFile, Mark, Reader
from agentkernel.engine.registry import Live
from agentkernel.errors import AgentKernelError, StoreFailed
from agentkernel.failpoints import failpoint
from agentkernel.model.command import ExitStatus
from agentkernel.model.record import LogEntry

AT_ONCE: Final = 500  # entries that are read before others have their turn
MARKS: Final = 256


class Logs:
    """The logs of all sandboxes of an engine: `Core.log_directory`/<sandbox id>/."""

    def __init__(self, core: Core, ended: Callable[[Live, int, ExitStatus | None, str], None]) -> None:
        """`ended` is told how a recorded command ended: its status, or an error's code."""
        self._core = core
        self._ended = ended
        self._directory = core.log_directory
        self._files: dict[str, LogFile] = {}
        self._recordings: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._is_closed = False
        self._marks: OrderedDict[tuple[str, float], Mark] = OrderedDict()  # by sandbox and time: where readers have stopped
        self._bells: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def record(self, live: Live, exec_id: int) -> None:
        """Begins to record a command, if its sandbox can tell and nobody records it yet."""
        key = (live.sandbox_id, exec_id)
        if self._is_closed or live.record.ephemeral or not exec_id or key in self._recordings:
            return
        if not isinstance(live.sandbox, Recordable):
            return
        live.recorded.begin(exec_id)
        try:
            file = self._file(live.sandbox_id)
            if not file.has_ended(exec_id):  # a client whose daemon died repeats its START, however long ago the command was
                ending = live.sandbox.record(exec_id, file.position(exec_id), self._writer(live.sandbox_id, exec_id, file))
                task = self._recordings[key] = asyncio.create_task(self._follow(live, exec_id, ending, file))
                task.add_done_callback(lambda _: self._recorded(live, exec_id))
                return
        except AgentKernelError as error:
            self._ended(live, exec_id, None, error.code)
        except OSError:
            pass  # the disk takes no log at all
        self._recorded(live, exec_id)

    async def resume(self, live: Live) -> None:
        """Goes on with every detached command of an adopted sandbox that was not recorded to its end."""
        if live.record.ephemeral:
            return
        try:
            for process in await live.sandbox.processes():
                if process.detached and not self._has_ended(live.sandbox_id, process.exec_id):
                    self.record(live, process.exec_id)
        except (AgentKernelError, OSError):
            return  # it has died since, which its next use finds; or its log cannot be read, and then it cannot be written either

    async def read(self, sandbox_id: str, *, exec_id: int, since: float, follow: bool) -> AsyncIterator[LogEntry]:
        """The entries after `since`, oldest first; with `follow` also those to come, until the sandbox is removed.

        Who goes on behind an entry that it was given last, or last but one, does so without all that is before.
        """
        bell = asyncio.Event()
        self._bells[sandbox_id].add(bell)
        reader = Reader(self._path(sandbox_id), self._marks.get((sandbox_id, since)))
        given: deque[Mark] = deque(maxlen=2)
        try:
            while True:
                bell.clear()
                for number, entry in enumerate(reader.more(), 1):
                    missing = entry.missing
                    if (entry.is_output or missing) and entry.at > since and exec_id in (0, entry.exec_id):
                        given.append(reader.mark(entry))
                        data = b"" if missing else entry.data
                        yield LogEntry(at=entry.at, exec_id=entry.exec_id, stream=entry.stream, data=data, missing=missing)
                    if number % AT_ONCE == 0:
                        await asyncio.sleep(0)
                if not follow or sandbox_id not in self._core.census:
                    return
                await bell.wait()
        except OSError as error:
            raise StoreFailed(f"cannot read the log: {error.strerror}") from error
        finally:
            reader.close()
            self._marks.update(((sandbox_id, mark.at), mark) for mark in given)
            while len(self._marks) > MARKS:
                self._marks.popitem(last=False)
            self._bells[sandbox_id].discard(bell)
            if not self._bells[sandbox_id]:
                del self._bells[sandbox_id]

    def forget(self, sandbox_id: str) -> None:
        """Removes a sandbox's log; none there is fine."""
        self._let_go(sandbox_id)
        shutil.rmtree(self._path(sandbox_id), ignore_errors=True)  # our own two files; what is left is found as garbage
        self._ring(sandbox_id)

    def orphans(self) -> list[str]:
        """The ids of logs whose sandboxes are gone."""
        try:
            names = os.listdir(self._directory)
        except OSError:
            return []
        return sorted(name for name in names if name not in self._core.census)

    async def close(self) -> None:
        """Stops recording, for good; the next engine goes on where this one stopped."""
        self._is_closed = True
        tasks = list(self._recordings.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sandbox_id in tuple(self._files):
            self._let_go(sandbox_id)

    def _writer(self, sandbox_id: str, exec_id: int, file: LogFile) -> Callable[[int, int, bytes], None]:
        def write(stream: int, offset: int, data: bytes) -> None:
            try:
                failpoint("engine.logs.write")
                file.write(self._core.clock(), exec_id, stream, offset, data)
            except OSError:
                return  # no room: the log has a gap, the command goes on
            self._ring(sandbox_id)

        return write

    async def _follow(self, live: Live, exec_id: int, ending: Awaitable[ExitStatus], file: LogFile) -> None:
        try:
            self._ended(live, exec_id, await ending, "")  # rather told twice, after a crash, than never
            file.end(self._core.clock(), exec_id)
        except AgentKernelError as error:
            self._ended(live, exec_id, None, error.code)
        except OSError:
            return  # the disk takes no log at all

    def _recorded(self, live: Live, exec_id: int) -> None:
        live.recorded.end(exec_id)
        self._recordings.pop((live.sandbox_id, exec_id), None)
        if not any(sandbox_id == live.sandbox_id for sandbox_id, _ in self._recordings):
            self._let_go(live.sandbox_id)

    def _file(self, sandbox_id: str) -> LogFile:
        if sandbox_id not in self._files:
            self._files[sandbox_id] = LogFile(self._path(sandbox_id))
        return self._files[sandbox_id]

    def _has_ended(self, sandbox_id: str, exec_id: int) -> bool:
        return os.path.isdir(self._path(sandbox_id)) and self._file(sandbox_id).has_ended(exec_id)

    def _let_go(self, sandbox_id: str) -> None:
        if (file := self._files.pop(sandbox_id, None)) is not None:
            file.close()

    def _ring(self, sandbox_id: str) -> None:
        for bell in self._bells.get(sandbox_id, ()):
            bell.set()

    def _path(self, sandbox_id: str) -> str:
        return f"{self._directory}/{sandbox_id}"
