"""Operations through the daemon's socket: the client itself follows a daemon that dies to the next, so every operation must succeed."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reliability.lives import OPERATION_S, Answer, Hangs, Lives, Nursery
from reliability.operations import Operations, Subject

from agentkernel.abc import Caller
from agentkernel.client import connection
from agentkernel.client.remote import RemoteKernel
from agentkernel.config.directories import socket_path
from agentkernel.errors import AgentKernelError, DaemonUnavailable

CALLER = Caller(principal="campaign")  # the daemon takes its caller from the socket
START_S = 10.0


class DaemonLives(Lives):
    """The daemon's processes, forked ready imported where a client would start one, and one client that outlives them."""

    def __init__(self, nursery: Nursery, environment: Mapping[str, str], errors: Path, subject: Subject) -> None:
        super().__init__(nursery, environment, errors)
        self._arguments = ["--foreground", "--idle", "1000", "--backends", subject.backend]
        self._meet = lambda kernel: Operations(kernel, CALLER, subject)
        self._kernel = RemoteKernel(self._environment)
        self._operations = self._meet(self._kernel)
        self._measures: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        connection.spawn = self._spawned  # type: ignore[assignment]

    async def begin(self, armed: str, then: str = "") -> None:
        """See `Lives`. With a new client: an old one waits longer from death to death, as it should, but here that is only time."""
        await self._kernel.close()
        await super().begin(armed, then)
        self._kernel = RemoteKernel(self._environment)
        self._operations = self._meet(self._kernel)

    async def call(self, operation: str, **arguments: Any) -> Answer:
        """See `Lives`."""
        act = self._settled if operation == "settled" else getattr(self._operations, operation)
        try:
            async with asyncio.timeout(OPERATION_S):
                return Answer(result=json.loads(json.dumps(await act(**arguments))))
        except TimeoutError:
            raise Hangs(f"{operation} {arguments} takes more than {OPERATION_S:g} s") from None
        except AgentKernelError as error:
            return Answer(error=error.code, message=error.message)
        except Exception as error:  # what no user should ever see: the campaign reports it
            return Answer(error=f"unexpected {type(error).__name__}", message=repr(error))

    async def close(self) -> int:
        """See `Lives`."""
        await asyncio.gather(*self._measures)
        await self._kernel.close()
        self._signal(signal.SIGTERM)
        return await self._ended()

    async def give_up(self) -> None:
        """See `Lives`."""
        await super().give_up()
        await self._kernel.close()

    async def _settled(self) -> None:
        """Until every sandbox has been asked for and none is between two states."""
        for _, name, _, _ in await self._operations.list():
            await self._kernel.info(CALLER, name)
        while any(status not in ("running", "stopped") for _, _, status, _ in await self._operations.list()):
            await asyncio.sleep(0.02)

    def _spawned(self, environment: Mapping[str, str], wait_s: float = START_S) -> None:
        """In place of `config.daemon_process.spawn`, in a thread."""
        if environment["AGENTKERNEL_HOME"] != self._environment["AGENTKERNEL_HOME"]:
            raise DaemonUnavailable("a client of an earlier episode is still there")
        asyncio.run_coroutine_threadsafe(self._living(), self._loop).result()

    async def _living(self) -> None:
        async with self._starting:
            if self._over.is_set():
                died = time.monotonic()
                await self._follow()
                self._measures.append(asyncio.create_task(self._measure(died)))
            else:
                await self._listening()

    async def _measure(self, died: float) -> None:
        kernel = RemoteKernel(self._environment)
        try:
            await kernel.status(CALLER)
            self.recoveries_s.append(time.monotonic() - died)
        except AgentKernelError:
            return  # it died as well; its successor is measured
        finally:
            await kernel.close()

    async def _start(self, armed: str) -> None:
        await self._fork("daemon", armed, self._arguments, [])
        await self._listening()

    async def _listening(self) -> None:
        """Until this process takes connections, or is over."""
        path = socket_path(self._environment)
        deadline = time.monotonic() + START_S
        while not self._over.is_set():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
                if probe.connect_ex(path) == 0 and peer(probe) == self.pid:
                    return
            if time.monotonic() > deadline:
                raise Hangs(f"daemon {self.pid} does not listen after {START_S:g} s")
            await asyncio.sleep(0.003)


def peer(connected: socket.socket) -> int:
    """The pid of who listens there."""
    return int.from_bytes(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), "little")
