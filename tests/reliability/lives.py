"""The processes under test, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability.shared import Shared

from agentkernel.errors import DaemonUnavailable

OPERATION_S = 30.0  # after which an operation counts as hanging
RECOVERY_S = float(os.environ.get("CAMPAIGN_RECOVERY_S", "2.0"))


class Hangs(Exception):
    """An operation did not end."""


@dataclass(frozen=True)
class Answer:
    """What an operation came to: `error` is empty or a code; `repeated` says that a process died while it was asked."""

    result: Any = None
    error: str = ""
    message: str = ""
    repeated: bool = False


class Nursery:
    """Forks the processes under test; see `nursery.py`."""

    def __init__(self, directory: Path) -> None:
        self.shared = Shared(directory / "shared")
        ours, theirs = socket.socketpair()
        self._control = ours
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reliability.nursery", str(theirs.fileno()), str(directory / "shared")],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._statuses: dict[int, int] = {}
        self._pids: asyncio.Queue[int] = asyncio.Queue()
        self._ended = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Waits until it has imported everything."""
        reader, self._writer = await asyncio.open_connection(sock=self._control)
        assert json.loads(await reader.readline())["ready"]
        self._reader = asyncio.create_task(self._read(reader))

    async def fork(self, asked: dict[str, Any], descriptors: list[int]) -> int:
        """The pid of a new process."""
        transport_socket = self._writer.get_extra_info("socket")
        socket.send_fds(socket.socket(fileno=os.dup(transport_socket.fileno())), [json.dumps(asked).encode()], descriptors)
        return await self._pids.get()

    async def status(self, pid: int) -> int:
        """Waits for its end: the exit status, or minus a signal."""
        async with self._ended:
            await self._ended.wait_for(lambda: pid in self._statuses)
        return self._statuses[pid]

    async def close(self) -> None:
        """Ends it."""
        if self._reader is not None:
            self._reader.cancel()
        self._writer.close()
        await self._writer.wait_closed()
        self.process.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            told = json.loads(line)
            if "pid" in told:
                self._statuses.pop(told["pid"], None)  # of an earlier process with that pid
                self._pids.put_nowait(told["pid"])
            else:
                async with self._ended:
                    self._statuses[told["ended"]] = told["status"]
                    self._ended.notify_all()


class Lives(ABC):
    """One process after the other, over one store."""

    has_shared_clock = True  # or the kernel's, which nobody moves

    def __init__(self, nursery: Nursery, environment: Mapping[str, str], errors: Path) -> None:
        self._nursery = nursery
        self._environment = dict(environment)
        self._errors = errors
        self._over = asyncio.Event()  # that of the life that is, or was last
        self._over.set()
        self._starting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._then = ""
        self._is_given_up = False
        self.armed = ""  # the failpoints of the process that lives, or lived last
        self.pid = 0  # of the process that lives, or lived last
        self.recoveries_s: list[float] = []  # from each death until somebody was answered again
        self.deaths: list[tuple[str, int]] = []  # how each was armed, and its exit status

    async def begin(self, armed: str, then: str = "") -> None:
        """Starts a process with failpoints; one that lives is killed before. `then`: those of the one that follows when it dies."""
        async with self._starting:  # else somebody who finds none starts one between the two
            await self.kill()
            self._then = then
            await self._start(armed)

    async def _follow(self) -> None:
        """Starts the one after one that has died."""
        if self._is_given_up:
            raise DaemonUnavailable("the episode is over")
        armed, self._then = self._then, ""
        await self._start(armed)

    async def kill(self) -> None:
        """SIGKILL for the process that lives."""
        if not self._over.is_set():
            self._signal(signal.SIGKILL)
            await self._over.wait()

    @abstractmethod
    async def call(self, operation: str, **arguments: Any) -> Answer:
        """Asks until somebody answers; raises Hangs."""

    @abstractmethod
    async def close(self) -> int:
        """Lets the process end in its own time; returns its exit status."""

    async def give_up(self) -> None:
        """Kills the process, and nobody starts another one."""
        self._is_given_up = True
        async with self._starting:
            await self.kill()

    @abstractmethod
    async def _start(self, armed: str) -> None:
        """Forks one, which is listened to when this returns."""

    async def _fork(self, kind: str, armed: str, arguments: list[str], descriptors: list[int]) -> None:
        asked = {"kind": kind, "environment": self._environment, "failpoints": armed, "arguments": arguments, "stderr": str(self._errors)}
        self.pid, self.armed = await self._nursery.fork(asked, descriptors), armed
        self._over = over = asyncio.Event()
        self._spawn(self._watch(self.pid, armed, over))

    async def _watch(self, pid: int, armed: str, over: asyncio.Event) -> None:
        self.deaths.append((armed, await self._nursery.status(pid)))
        over.set()

    async def _ended(self) -> int:
        try:
            async with asyncio.timeout(OPERATION_S):
                await self._over.wait()
        except TimeoutError:
            raise Hangs("the process was asked to end and does not") from None
        return self.deaths[-1][1]

    def _signal(self, number: int) -> None:
        assert self.pid > 1, "no process, but a group of them"
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
