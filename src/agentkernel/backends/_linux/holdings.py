"""Everything on the host that belongs to one sandbox: held while it lives, and found again by its records."""

from __future__ import annotations

import os
import select
from dataclasses import dataclass
from pathlib import Path

from agentkernel.backends._agent import end_unrecorded
from agentkernel.backends._linux.cgroups import Cgroups
from agentkernel.backends._linux.disk import remove_trees
from agentkernel.backends._linux.host import Host
from agentkernel.backends._linux.kept import Kept, find_kept
from agentkernel.backends._linux.launch import Launched, kill_and_reap
from agentkernel.backends._linux.processes import kill_descendants
from agentkernel.backends._linux.ranges import release_range
from agentkernel.backends._linux.state import SandboxState, StateRoot, taken_lasting
from agentkernel.backends._linux.watch import LimitWatch
from agentkernel.backends._records import recorded_process
from agentkernel.failpoints import failpoint
from agentkernel.model.isolation import IsolationLevel


@dataclass(slots=True, kw_only=True)
class Holdings:
    """The parts; each may still be missing while it is being built, or be gone already."""

    backend: str
    root: StateRoot
    sandbox_id: str
    state: SandboxState | None = None
    owner: str = ""  # of a booted sandbox: the identity of the store that it is in
    kept: Kept | None = None  # of a booted sandbox with storage on disk
    cgroups: Cgroups | None = None
    id_base: int | None = None
    launched: Launched | None = None
    watch: LimitWatch | None = None
    process_level: bool = False

    @property
    def data(self) -> Path | None:
        """Where the sandbox's own writes are on the host's disk."""
        return self.kept.files if self.kept is not None else self.state.data if self.state is not None else None

    def limits_by_group(self, controller: str) -> bool:
        """Whether a cgroup limits memory, pids or cpu."""
        return self.cgroups is not None and self.cgroups.limits(controller)

    @property
    def lives(self) -> bool:
        """Whether the first process has not ended."""
        if self.launched is None:
            return False
        poll = select.poll()
        poll.register(self.launched.pidfd, select.POLLIN)
        return not poll.poll(0)

    async def let_go(self) -> None:
        """Frees what only this process needs; the sandbox lives on and can be recovered."""
        await self._stop_watching()
        if self.launched is not None:
            os.close(self.launched.pidfd)
            self.launched = None
        if self.cgroups is not None:
            self.cgroups.let_go()
        if self.state is not None:
            self.state.let_go()

    async def release(self, act: str, *, keep_files: bool = False) -> None:
        """Removes whatever there is, in an order that a crash may cut anywhere: processes, groups, files, ids, the directories themselves.

        `act` names the failpoints; with `keep_files` what is kept of a booted sandbox stays.
        """
        await self._end_processes()
        failpoint(f"{self.backend}.{act}.processes")
        if self.cgroups is not None:
            await self.cgroups.remove()
            self.cgroups = None
        failpoint(f"{self.backend}.{act}.groups")
        if self.kept is None:
            await self._remove_data()
        elif keep_files:
            await self.kept.remove_volatile()
        else:
            await self._remove_kept(self.kept, act)
        failpoint(f"{self.backend}.{act}.files")
        if self.state is not None:
            self.state.release()
            self.state = None
        failpoint(f"{self.backend}.{act}.state")

    async def release_or_let_go(self, act: str, *, keep_files: bool = False) -> None:
        """The same; should it fail, what is left can be taken up again by its records."""
        try:
            await self.release(act, keep_files=keep_files)
        except BaseException:
            await self.let_go()
            raise

    async def _end_processes(self) -> None:
        await self._stop_watching()
        if self.launched is not None:
            launched, self.launched = self.launched, None
            if self.process_level:
                kill_descendants(launched.pid)
            await kill_and_reap(launched.pidfd)

    async def _remove_data(self) -> None:
        if (data := self.data) is not None:
            await remove_trees([data], self.id_base)
        if self.id_base is not None:
            release_range(self.root.ranges, self.id_base)
            self.id_base = None

    async def _remove_kept(self, kept: Kept, act: str) -> None:
        await kept.remove_files()
        failpoint(f"{self.backend}.{act}.tree")
        kept.release_ids()
        failpoint(f"{self.backend}.{act}.range")
        kept.release()
        self.kept = None

    async def _stop_watching(self) -> None:
        if self.watch is not None:
            await self.watch.stop()
            self.watch = None


async def recorded_holdings(host: Host, sandbox_id: str, owner: str) -> Holdings | None:
    """Takes up everything that is recorded of a booted sandbox; None where nothing is.

    An agent whose boot was cut short before it was recorded is ended.

    Raises:
        Conflict: it belongs to another store, or an engine that lives holds it.
    """
    root, kept = host.state, find_kept(host.data, sandbox_id, owner)
    state = taken_lasting(root, sandbox_id, owner)
    if state is None:
        return None if kept is None else Holdings(backend=host.backend, root=root, sandbox_id=sandbox_id, owner=owner, kept=kept)
    holdings = Holdings(backend=host.backend, root=root, sandbox_id=sandbox_id, owner=owner, state=state, kept=kept)
    try:
        await take_up(holdings, state)
    except BaseException:
        await holdings.let_go()
        raise
    return holdings


async def take_up(holdings: Holdings, state: SandboxState) -> None:
    """Adds to the holdings everything that `state` records; an agent that runs without being recorded is ended."""
    holdings.process_level = state.configuration.level == IsolationLevel.PROCESS.label
    first_id = state.recorded("range")
    if holdings.kept is not None:
        holdings.id_base = holdings.kept.id_base
    elif first_id.isdecimal():
        holdings.id_base = int(first_id)
    cgroups = Cgroups.recorded(state.recorded("cgroups"))
    holdings.cgroups = cgroups if cgroups.paths else None
    record = state.recorded("pid")
    if not record:
        await end_unrecorded(state.socket_path)
    elif (process := recorded_process(record)) is not None:
        holdings.launched = Launched(pid=process[0], pidfd=process[1])
