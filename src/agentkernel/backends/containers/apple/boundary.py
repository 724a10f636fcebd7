"""A running machine: how its agent is reached, how it dies, how it is stopped and removed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from agentkernel.backends._configuration import Configuration
from agentkernel.backends._records import LEFT_HINT, failing_as
from agentkernel.backends.containers.apple.arguments import session_arguments
from agentkernel.backends.containers.apple.program import Program
from agentkernel.backends.containers.apple.state import Place
from agentkernel.backends.containers.plan import container_name
from agentkernel.errors import SandboxFailed, SandboxLost, Unsupported
from agentkernel.model.command import LimitHit
from agentkernel.model.spec import SandboxSpec, StorageKind

BACKEND = "apple"
_GRACE_S = 2.0
_PAUSE_S = 0.2  # between a session's end and the next question


class AppleBoundary:
    """Implements `channel.boundary.Boundary`. Each attach is a session of the program, which passes bytes on and ends with it."""

    backend = BACKEND

    def __init__(
        self, spec: SandboxSpec, program: Program, place: Place, configuration: Configuration, find: Callable[[], Awaitable[Place | None]]
    ) -> None:
        """`find` takes the place of a booted sandbox up again once it was let go."""
        self.spec = spec
        self.seccomp = configuration.seccomp
        self.rlimits = configuration.rlimits
        self.network = configuration.network
        self.sandbox_id = place.sandbox_id
        self._program = program
        self._place: Place | None = place
        self._find = find
        self._owner = place.owner
        self._name = container_name(place.sandbox_id)
        self._session: asyncio.subprocess.Process | None = None
        self._attached = asyncio.Event()  # a first session has begun
        self._ending = asyncio.Lock()
        self._end = ""

    async def connect(self) -> socket.socket:
        """Begins a session; the one before, whose stream was lost, is ended."""
        if self._end:
            raise SandboxLost(f"the sandbox was {self._end}")
        await self.end_session()
        connection, self._session = await self._program.converse(*session_arguments(self._name))
        self._attached.set()
        return connection

    async def wait_dead(self) -> str:
        """Waits until a session has ended because the machine has."""
        await self._attached.wait()
        while True:
            session = self._session
            if session is not None:
                await session.wait()
            if end := self._end:
                return f"it was {end}"
            if not await self._runs():
                return "its machine ended"
            await asyncio.sleep(_PAUSE_S)  # the channel attaches again

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        """None that could be told apart: they are the machine's own."""
        return ()

    async def close(self) -> None:
        """Lets go of a booted sandbox."""
        async with self._ending:
            if self._owner and self._place is not None:
                place, self._place, self._end = self._place, None, "let go"
                await self.end_session()
                place.let_go()

    async def stop(self) -> None:
        """Ends the machine and keeps its disk; raises Unsupported where nothing is on it."""
        if not self._owner or self.spec.storage is not StorageKind.DISK:
            raise Unsupported("no files are kept of this sandbox", hint="destroy it")
        await asyncio.shield(self._finish("stopped", keep_files=True))

    async def destroy(self) -> None:
        """Ends the machine and removes it with its disk."""
        await asyncio.shield(self._finish("destroyed", keep_files=False))

    async def _runs(self) -> bool:
        """Whether the machine runs; where that cannot be told now, as if: the next question comes soon."""
        try:
            found = (await self._program.containers()).get(self._name)
        except SandboxFailed:
            return True
        return found is not None and found.runs

    async def _finish(self, how: str, *, keep_files: bool) -> None:
        self._end = how
        async with self._ending:
            with failing_as(SandboxFailed, f"the sandbox cannot be {how}", LEFT_HINT):
                await self.end_session()
                place, self._place = self._place, None
                if place is None and self._owner:
                    place = await self._find()
                if place is None:
                    return
                try:
                    await (end_machine if keep_files else remove_machine)(self._program, place)
                finally:
                    place.let_go()

    async def end_session(self) -> None:
        """Waits until the process has ended that the stream went through, which the stream's end tells to; one that does not is killed."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            async with asyncio.timeout(_GRACE_S):
                await session.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                session.kill()
            await session.wait()


async def end_machine(program: Program, place: Place) -> None:
    """Kills everything in a machine and keeps its disk; one that does not run is fine."""
    name = container_name(place.sandbox_id)
    found = (await program.containers()).get(name)
    if found is not None and found.runs:
        await program.call("stop", "--signal", "KILL", "--time", "5", name)


async def remove_machine(program: Program, place: Place) -> None:
    """Removes it, and then what is known of it."""
    await program.delete(container_name(place.sandbox_id))
    place.release()
