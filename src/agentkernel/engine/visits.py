"""Visits: a stopped sandbox runs while somebody needs it, and is stopped again whatever becomes of who needed it.

Its row says that it runs for visitors alone, from before it is booted. So an engine that finds it running after a crash stops it, unless
a visitor comes back; and so does the timer, where stopping it has failed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from agentkernel.abc import Caller
from agentkernel.engine.audit import Subject
from agentkernel.engine.core import Core
from agentkernel.engine.lifecycle import Lifecycle
from agentkernel.engine.registry import Live
from agentkernel.errors import AgentKernelError, BackendUnavailable, NotFound, SandboxLost
from agentkernel.failpoints import failpoint
from agentkernel.model.record import SandboxRecord
from agentkernel.model.status import Status


class Visits:
    """Those of one engine."""

    def __init__(self, core: Core, lifecycle: Lifecycle) -> None:
        self._core = core
        self._lifecycle = lifecycle

    async def arrive(self, caller: Caller, name: str) -> tuple[Live, bool]:
        """The running sandbox, and whether it was started for this. A caller who has gone meanwhile has left.

        Raises what a start raises.
        """
        arrival = self._core.audit.told("sandbox.started", Subject(caller, name), self._arrived(caller, name))
        work = self._core.operations.spawn(arrival)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(lambda done: self._turned_back(caller, done))
            raise

    async def depart(self, caller: Caller, live: Live) -> bool:
        """One visitor less; whether the sandbox goes on: for others, for commands run in it, or because it ran before.

        Where that cannot be found out or done now, whoever asked is told why, and the timer tries again.
        """
        live.visits -= 1
        if live.record.visited and not live.visits:
            live.visit_by = self._core.clock()  # before anything can fail
        try:
            return await self._core.operations.finish(self._settled(caller, live))
        except NotFound:
            return False  # somebody has removed it

    async def end(self, live: Live) -> None:
        """Nobody has come back, or stopping it has failed before."""
        await self._core.operations.finish(self._settled(Caller(principal=live.record.owner), live))

    async def _arrived(self, caller: Caller, name: str) -> tuple[Live, bool]:
        found: list[Live] = []
        before: list[Status] = []

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            record = await self._lifecycle.as_it_is(caller, record)
            before.append(record.status)
            if record.status is not Status.RUNNING:
                record = await self._lifecycle.start(caller, record, visited=True)
            live = self._core.live(record)
            if live is None:
                raise SandboxLost(f"the sandbox {record.name!r} has ended")
            live.visit_by = self._core.clock() if record.visited and not live.visits else None  # until the visitor counts
            failpoint("engine.visit.started")
            live.visits += 1
            live.visit_by = None
            found.append(live)
            return record

        record = self._core.find(caller, "visit", name)
        await self._lifecycle.alone(caller, record.sandbox_id, act, even_unavailable=False)
        return found[0], before[0] is Status.STOPPED

    async def _settled(self, caller: Caller, live: Live) -> bool:
        """Stops what runs for visitors alone and has none; whether it goes on."""

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            if self._core.live(record) is not live or not record.visited or live.visits:
                live.visit_by = None  # it is not for this visit to stop it
                return record
            failpoint("engine.visit.left")
            if not await self._is_needed(live):
                return await self._lifecycle.end_boot(record, caller, "sandbox.stopped")
            record = self._core.update(replace(record, visited=False))
            live.visit_by = None
            return record

        record = await self._lifecycle.alone(caller, live.sandbox_id, act, even_unavailable=False)
        return record.status is Status.RUNNING

    async def _is_needed(self, live: Live) -> bool:
        """Whether a command runs in it, or somebody is connected. What is done with files is for visitors, who have gone.

        Raises BackendUnavailable where only its backend knows, and does not answer.
        """
        try:
            return live.is_in_use or any(each.running and not each.on_files for each in await live.sandbox.processes())
        except BackendUnavailable:
            raise
        except AgentKernelError:
            return False  # it has died

    def _turned_back(self, caller: Caller, done: asyncio.Task[tuple[Live, bool]]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._core.operations.spawn(self._left_at_once(caller, done.result()[0]))

    async def _left_at_once(self, caller: Caller, live: Live) -> None:
        with suppress(AgentKernelError, OSError):  # nobody is there to be told, and the timer tries again
            await self.depart(caller, live)
