"""Everything that belongs to one sandbox, on this host and in the engine: held while it lives, and found again by its records and name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentkernel.backends._agent import SOCKET_NAME
from agentkernel.backends._linux.cgroups import Cgroups
from agentkernel.backends._linux.removal import remove_tree
from agentkernel.backends._linux.state import SandboxState, taken_lasting
from agentkernel.backends._linux.watch import LimitWatch
from agentkernel.backends._records import check_owner, process_record, read_file, recorded_process, write_file
from agentkernel.backends.containers import mounting
from agentkernel.backends.containers.calls import Container
from agentkernel.backends.containers.dialect import EngineFacts
from agentkernel.backends.containers.host import Host
from agentkernel.backends.containers.plan import container_name
from agentkernel.failpoints import failpoint

RUN, FILES, READY = "run", "files", "ready"
UNSHARED_ID: Final = 65_531  # of nobody inside


@dataclass(slots=True, kw_only=True)
class Holdings:
    """The parts; each may still be missing while it is being built, or be gone already."""

    host: Host
    facts: EngineFacts
    sandbox_id: str
    owner: str = ""  # of a booted sandbox: the identity of the store that it is in
    state: SandboxState | None = None
    pid: int = 0
    pidfd: int = -1  # of the first process, where the engine is local
    cgroups: Cgroups | None = None  # of its container, where this process sees them
    watches: list[LimitWatch] = field(default_factory=list)
    keeps: bool = False  # its files outlast a stop
    user: int = 1000

    @property
    def name(self) -> str:
        """The container's."""
        return container_name(self.sandbox_id)

    @property
    def directory(self) -> Path:
        """The state directory; only while there is one."""
        assert self.state is not None  # noqa: S101 - asked by the caller
        return self.state.path

    @property
    def socket(self) -> Path:
        """Where the agent listens."""
        return self.directory / RUN / SOCKET_NAME

    def make_run_directory(self, *, apart: bool) -> str:
        """Makes the directory that the agent listens in; `apart`: it belongs to nobody inside."""
        path = self.directory / RUN
        path.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path / SOCKET_NAME)
        if os.geteuid() == 0 and not self.facts.rootless:
            owner = self.facts.id_base + (UNSHARED_ID if apart else 0)
            os.chown(path, owner, owner)
        return str(path)

    def make_file(self, number: int, content: bytes, mode: int) -> str:
        """Writes a small file that is shown inside."""
        path = self.directory / FILES
        path.mkdir(mode=0o711, exist_ok=True)
        write_file(f"{path}/{number}", content)
        os.chmod(path / str(number), mode)
        return f"{path}/{number}"

    @property
    def is_ready(self) -> bool:
        """Whether what is to be done inside after a start is done."""
        return (self.directory / FILES / READY).exists()

    def note_ready(self) -> None:
        """Records it, for an engine that takes the sandbox up."""
        path = self.directory / FILES
        path.mkdir(mode=0o711, exist_ok=True)
        write_file(f"{path}/{READY}", b"")

    def runs(self, container: Container) -> None:
        """Notes the first process; raises ProcessLookupError where it has ended already."""
        if self.facts.local and self.pidfd < 0:
            self.pidfd = os.pidfd_open(container.pid)
            self.pid = container.pid
            if self.state is not None:
                self.state.record("pid", process_record(self.pid))
            self.cgroups = cgroups_of(self.pid)
            if self.cgroups is not None:
                self.cgroups.take_up()

    @property
    def has_ended(self) -> bool:
        """Whether the first process, where this host sees it, has ended."""
        if self.pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    async def let_go(self) -> None:
        """Frees what only this process needs; the sandbox lives on and can be recovered."""
        await self._stop_watching()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.cgroups is not None:
            self.cgroups.let_go()
            self.cgroups = None
        if self.state is not None:
            self.state.let_go()

    async def release(self, act: str, *, keep_files: bool = False) -> None:
        """Removes whatever there is, in an order that a crash may cut anywhere: the container, mounts, files, the directories themselves.

        `act` names the failpoints; with `keep_files` the container stays, ended, with what is in its layer.
        """
        await self._stop_watching()
        containers = self.host.containers
        if keep_files:
            await containers.kill(self.name)
        else:
            await containers.remove(self.name)
        failpoint(f"containers.{act}.container")
        if self.state is not None:
            await mounting.unmake(self.host, self.facts, self.state.path)
        failpoint(f"containers.{act}.mounts")
        if not keep_files:
            await mounting.remove_files(self.host, self.sandbox_id, self.user, self.facts.id_base)
        failpoint(f"containers.{act}.files")
        if self.state is not None:
            for name in (RUN, FILES):
                await asyncio.to_thread(remove_tree, self.state.path / name)
            self.state.release()
            self.state = None
        failpoint(f"containers.{act}.state")
        await self.let_go()

    async def _stop_watching(self) -> None:
        while self.watches:
            await self.watches.pop().stop()

    async def release_or_let_go(self, act: str, *, keep_files: bool = False) -> None:
        """The same; should it fail, what is left can be taken up again by its records."""
        try:
            await self.release(act, keep_files=keep_files)
        except BaseException:
            await self.let_go()
            raise


async def recorded_holdings(host: Host, sandbox_id: str, owner: str) -> tuple[Holdings | None, Container | None]:
    """Takes up everything that is recorded of a booted sandbox, and the container; None where nothing is.

    Raises:
        Conflict: it belongs to another store, or an engine that lives holds it.
    """
    facts = await host.facts()
    state = taken_lasting(host.state, sandbox_id, owner) if host.is_recorded else None
    holdings = Holdings(host=host, facts=facts, sandbox_id=sandbox_id, owner=owner, state=state)
    try:
        container = await host.containers.find(holdings.name)
        if container is not None:
            check_owner(sandbox_id, container.owner, owner)
        if state is None and container is None and not host.files(sandbox_id).is_dir():
            return None, None
        if container is not None and container.running:
            _take_up_process(holdings, container)
    except BaseException:
        await holdings.let_go()
        raise
    return holdings, container


def _take_up_process(holdings: Holdings, container: Container) -> None:
    """The process that was recorded, or that the engine tells of where a crash came before the record."""
    recorded = holdings.state.recorded("pid") if holdings.state is not None else ""
    found = recorded_process(recorded) if recorded else None
    if found is not None and found[0] != container.pid:
        os.close(found[1])
        found = None
    if found is not None:
        holdings.pid, holdings.pidfd = found
        holdings.cgroups = cgroups_of(holdings.pid)
        if holdings.cgroups is not None:
            holdings.cgroups.take_up()
    else:
        with contextlib.suppress(ProcessLookupError):
            holdings.runs(container)


def cgroups_of(pid: int) -> Cgroups | None:
    """The control groups of a container's first process, as far as this host's tree shows them."""
    lines = []
    for line in read_file(f"/proc/{pid}/cgroup").decode(errors="replace").splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",") if controllers else ["memory", "pids"]
        version = 1 if controllers else 2
        for name in names:
            place = f"/sys/fs/cgroup/{name}{path}" if controllers else f"/sys/fs/cgroup{path}"
            if name in ("memory", "pids") and os.path.isdir(place) and path != "/":
                lines.append((version, name, place))
    first = [line for line in lines if line[0] == 1] or [line for line in lines if os.path.exists(f"{line[2]}/{line[1]}.events")]
    return Cgroups.recorded("\n".join(f"{version} {name} {place}" for version, name, place in first)) if first else None
