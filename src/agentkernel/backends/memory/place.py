"""The directory of one sandbox: private, found again by its id when the sandbox was booted.

owner, lease, pid, configuration    as those of any booted sandbox; gone while it is stopped, but for `owner`
agent.sock                          the agent's listening socket
home/, workspace/                   its files
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agentkernel.backends._agent import SOCKET_NAME, end_unrecorded
from agentkernel.backends._configuration import Configuration
from agentkernel.backends._lease import LEASE, UNFINISHED_LEASE, new_lease, taken_lease
from agentkernel.backends._records import check_owner, process_record, read_file, recorded_process, write_file
from agentkernel.backends.memory.tree import end_agent
from agentkernel.errors import Conflict

_RUNNING = (SOCKET_NAME, "pid", "configuration", UNFINISHED_LEASE, LEASE)  # the files of one that runs, in the order in which they go


@dataclass(slots=True, kw_only=True)
class Place:
    """A directory and, while this process holds it, its lease and a pidfd of its agent."""

    sandbox_id: str
    path: Path
    owner: str = ""  # of a booted one
    lease_fd: int = -1
    pid: int = 0
    pidfd: int = -1

    @property
    def configuration(self) -> Configuration:
        """What the agent was configured with."""
        return Configuration.decode(read_file(f"{self.path}/configuration"))

    def record_configuration(self, configuration: Configuration) -> None:
        """Before the agent is started."""
        write_file(f"{self.path}/configuration", configuration.encode())

    def started(self, pid: int) -> None:
        """Notes the agent."""
        self.pid, self.pidfd = pid, os.pidfd_open(pid)
        write_file(f"{self.path}/pid", process_record(pid))

    async def find_agent(self) -> None:
        """Opens the agent that is recorded, and ends one that a crash left unrecorded."""
        record = read_file(f"{self.path}/pid").decode()
        if not record:
            await end_unrecorded(self.path / SOCKET_NAME)
        elif (process := recorded_process(record)) is not None:
            self.pid, self.pidfd = process

    def let_go(self) -> None:
        """Frees what only this process needs."""
        for fd in (self.pidfd, self.lease_fd):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.lease_fd = -1

    async def end(self, *, keep_files: bool) -> None:
        """Ends the agent with everything below it and removes the directory, or what in it is not the sandbox's files."""
        try:
            if self.pidfd >= 0:
                pidfd, self.pidfd = self.pidfd, -1
                await asyncio.to_thread(end_agent, self.pid, pidfd)
            else:
                await end_unrecorded(self.path / SOCKET_NAME)
            if keep_files:
                for name in _RUNNING:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self.path / name)
            else:
                await asyncio.to_thread(shutil.rmtree, self.path, ignore_errors=True)
        finally:
            self.let_go()


def temporary_place() -> Place:
    """For a sandbox that ends with this process."""
    return Place(sandbox_id=os.urandom(8).hex(), path=Path(tempfile.mkdtemp(prefix="agentkernel-memory-")))


def make_place(base: Path, sandbox_id: str, owner: str) -> Place:
    """For a sandbox that is booted; its files may be there."""
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = base / sandbox_id
    path.mkdir(mode=0o700, exist_ok=True)
    try:
        write_file(f"{path}/owner", owner)
        return Place(sandbox_id=sandbox_id, path=path, owner=owner, lease_fd=new_lease(path))
    except BaseException:
        for name in (UNFINISHED_LEASE, LEASE):
            (path / name).unlink(missing_ok=True)
        if not (path / "home").exists():  # it was new
            shutil.rmtree(path, ignore_errors=True)
        raise


async def find_place(base: Path, sandbox_id: str, owner: str) -> Place | None:
    """Takes up a booted sandbox's directory and its agent; None where there is none.

    Raises:
        Conflict: it belongs to another store, or an engine that lives holds it.
    """
    path = base / sandbox_id
    recorded = read_file(f"{path}/owner").decode()
    check_owner(sandbox_id, recorded, owner)
    try:
        fd = taken_lease(path, unfinished_age_s=0)
    except FileNotFoundError:
        return None
    except BlockingIOError as error:
        raise Conflict(f"another engine holds sandbox {sandbox_id}", hint="is a second daemon running?") from error
    place = Place(sandbox_id=sandbox_id, path=path, owner=owner, lease_fd=fd)
    try:
        if not recorded:
            write_file(f"{path}/owner", owner)
        await place.find_agent()
    except BaseException:
        place.let_go()
        raise
    return place
