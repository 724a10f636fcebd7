"""The same daemon, started as clients start it: a new interpreter each time. Slower, and the clock cannot be moved."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reliability.daemon_lives import DaemonLives, peer
from reliability.faults import SOURCE
from reliability.lives import Nursery
from reliability.operations import Subject

from agentkernel.config.daemon_process import spawn
from agentkernel.config.directories import socket_path


class ProcessLives(DaemonLives):
    """`python -m agentkernel.daemon`, whose orphans, and whose end, come to this process (a subreaper)."""

    has_shared_clock = False

    def __init__(self, nursery: Nursery, environment: Mapping[str, str], errors: Path, subject: Subject) -> None:
        super().__init__(nursery, {**environment, "PYTHONPATH": str(SOURCE.parent)}, errors, subject)
        self._is_killed = False
        self._spawner = ThreadPoolExecutor(1)  # clients wait for a daemon in threads, perhaps in all that the loop has

    async def kill(self) -> None:
        """See `Lives`."""
        self._is_killed = True
        await super().kill()

    async def _start(self, armed: str) -> None:
        await self._loop.run_in_executor(self._spawner, spawn, {**self._environment, "AGENTKERNEL_FAILPOINTS": armed})
        self.armed, self._is_killed = armed, False
        self._over = over = asyncio.Event()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            if probe.connect_ex(socket_path(self._environment)) == 0:
                self.pid = peer(probe)
                self._spawn(self._until_dead(os.pidfd_open(self.pid), self.pid, armed, over))
                return
        self._dead(armed, -signal.SIGKILL, over)  # before it could listen

    async def _until_dead(self, pidfd: int, pid: int, armed: str, over: asyncio.Event) -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        status = -signal.SIGKILL
        with contextlib.suppress(ChildProcessError):  # somebody who reaps orphans was faster
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._dead(armed, status, over)

    def _dead(self, armed: str, status: int, over: asyncio.Event) -> None:
        if status == -signal.SIGKILL and not self._is_killed:
            self._nursery.shared.fired += armed.count("@")  # which is all that can be known of it
        self.deaths.append((armed, status))
        over.set()
