"""Booted sandboxes: they outlive their engine and keep their files over a stop, and nothing of them is left once they are discarded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agentkernel.abc import Backend, Keeping, Mortal, Process, Sandbox
from agentkernel.errors import AgentKernelError, Conflict, InvalidInput, NotFound, SandboxFailed, SandboxLost, Unsupported
from agentkernel.model.command import Command
from agentkernel.model.isolation import Fingerprint
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec, StorageKind
from agentkernel.testing.base import ConformanceBase, eventually, here, shell
from agentkernel.testing.booting import Booting
from agentkernel.testing.host import HostSnapshot, adopting_orphans, descendants, host_processes, leftovers, take

CYCLES = 20
SLOW = "for number in 1 2 3 4 5; do echo line $number; echo error $number >&2; sleep 0.1; done; exit 7"


@dataclass(frozen=True, slots=True, kw_only=True)
class KilledEngine:
    """What an engine left that was killed with SIGKILL."""

    sandbox_id: str
    exec_id: int
    processes: tuple[int, ...]  # of the host, that were below the engine

    async def has_ended(self) -> bool:
        """Whether none of its processes runs any more."""
        running = [process.pid for process in host_processes().values() if process.state not in "ZX"]
        return not set(self.processes) & set(running)


@dataclass(slots=True, kw_only=True)
class Engine:
    """An engine of this process: what it opened it lets go of at the end."""

    backend: Backend
    spec: SandboxSpec
    owner: str
    opened: list[Sandbox]

    async def boot(self, sandbox_id: str = "", **changes: Any) -> Sandbox:
        """Boots under that id, or a new one."""
        self.opened.append(await self.backend.boot(sandbox_id or new_id(), replace(self.spec, **changes), self.owner))
        return self.opened[-1]

    async def recover(self, sandbox_id: str) -> Sandbox:
        """Takes up one that runs."""
        sandbox = await self.backend.recover(sandbox_id, self.spec, self.owner)
        assert sandbox is not None
        self.opened.append(sandbox)
        return sandbox

    async def is_gone(self, sandbox_id: str) -> bool:
        """Whether nothing can be taken up."""
        return await self.backend.recover(sandbox_id, self.spec, self.owner) is None

    async def keeps(self, sandbox_id: str) -> bool:
        """Whether its files are there; of a backend that cannot tell, yes."""
        return not isinstance(self.backend, Keeping) or await self.backend.has_files(sandbox_id, self.owner)

    async def discard(self, sandbox_id: str) -> None:
        """Removes every trace."""
        await self.backend.discard(sandbox_id, self.owner)

    async def sweep(self, *keep: str) -> int:
        """Removes what is not to be kept."""
        return await self.backend.sweep_owned(self.owner, set(keep))

    def of(self, owner: str) -> Engine:
        """The same of another store; what it opens goes with this one."""
        return replace(self, owner=owner)

    async def close(self) -> None:
        """Removes everything that it opened, and everything of its owner."""
        for sandbox in self.opened:
            await sandbox.close()
        await self.sweep()


class LastingConformance(ConformanceBase):
    """Boot, recover, stop, discard, sweep_owned; for backends that define `backend_in_another_process`."""

    KEEPS_PIPES = True  # named pipes outlast a stop; false where the sandbox's own kernel keeps them in its memory

    def lasting_spec(self, **changes: Any) -> SandboxSpec:
        """`spec` of a sandbox whose files are kept."""
        return self.spec(storage=StorageKind.DISK, **changes)

    @pytest.fixture
    async def engine(self, backend: Backend, fingerprint: Fingerprint) -> AsyncIterator[Engine]:
        """Of a store that has nothing yet."""
        if self.backend_in_another_process() is None:
            pytest.skip(f"{backend.name} keeps no sandboxes beyond its process")
        engine = Engine(backend=backend, spec=self.lasting_spec(), owner=os.urandom(16).hex(), opened=[])
        yield engine
        await engine.close()

    @pytest.fixture
    async def untouched(self, engine: Engine) -> AsyncIterator[HostSnapshot]:
        """The host before the test, but after a first sandbox (what a backend makes once for all is no leftover)."""
        with adopting_orphans():
            await (await engine.boot()).destroy()
            await asyncio.sleep(0.1)
            yield take(self.watched_directories())

    async def _nothing_is_left(self, before: HostSnapshot) -> bool:
        assert await leftovers(before, self.watched_directories()) == []
        return True

    @asynccontextmanager
    async def _other_engine(self, owner: str, script: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, int]]:
        """Another process that has booted a sandbox and started a detached command in it; and the ids of both."""
        made = self.backend_in_another_process()
        assert made is not None
        command = Command(argv=shell(script), detached=True)
        wanted = Booting(backend=made, sandbox_id=new_id(), spec=self.lasting_spec(), owner=owner, command=command)
        argv = (sys.executable, "-m", "agentkernel.testing.booting")
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe)
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(pickle.dumps(wanted))
            yield process, wanted.sandbox_id, int(await asyncio.wait_for(process.stdout.readline(), 60))
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            process.stdin.close()

    async def _killed_engine(self, owner: str, script: str) -> KilledEngine:
        async with self._other_engine(owner, script) as (process, sandbox_id, exec_id):
            below = tuple(descendants(process.pid))
            process.kill()
            await process.wait()
        return KilledEngine(sandbox_id=sandbox_id, exec_id=exec_id, processes=below)

    async def test_a_booted_sandbox_has_the_id_that_it_was_given(self, engine: Engine) -> None:
        sandbox_id = new_id()
        sandbox = await engine.boot(sandbox_id, name="known")
        assert (sandbox.sandbox_id, sandbox.backend, sandbox.spec.name) == (sandbox_id, engine.backend.name, "known")
        assert (await sandbox.exec(Command(argv=shell("echo $((6 * 7))")))).stdout == b"42\n"

    @pytest.mark.parametrize(("sandbox_id", "store"), [("../../etc", "a" * 32), ("A" * 16, "a" * 32), ("a" * 16, "../x")])
    async def test_what_is_no_id_is_refused(self, engine: Engine, sandbox_id: str, store: str) -> None:
        with pytest.raises(InvalidInput):
            await engine.of(store).boot(sandbox_id)
        with pytest.raises(InvalidInput):
            await engine.of(store).recover(sandbox_id)
        with pytest.raises(InvalidInput):
            await engine.of(store).discard(sandbox_id)

    async def test_a_command_goes_on_while_its_engine_is_killed_and_its_output_is_complete(self, engine: Engine) -> None:
        left = await self._killed_engine(engine.owner, SLOW)
        sandbox = await engine.recover(left.sandbox_id)
        assert [process.exec_id for process in await sandbox.processes()] == [left.exec_id]
        process = await sandbox.attach(left.exec_id)
        said = await _output(process)
        assert said[1] == b"".join(b"line %d\n" % number for number in range(1, 6))
        assert said[2] == b"".join(b"error %d\n" % number for number in range(1, 6))
        assert (await process.wait()).exit_code == 7
        assert (await sandbox.exec(Command(argv=shell("echo still here")))).stdout == b"still here\n"

    async def test_what_was_taken_up_can_be_stopped_started_and_removed(self, engine: Engine, untouched: HostSnapshot) -> None:
        left = await self._killed_engine(engine.owner, "echo kept > kept; echo done; sleep 600")
        sandbox = await engine.recover(left.sandbox_id)
        await _said(await sandbox.attach(left.exec_id), b"done\n")
        await sandbox.stop()
        assert await engine.is_gone(left.sandbox_id)
        sandbox = await engine.boot(left.sandbox_id)
        assert (await sandbox.exec(Command(argv=shell("cat kept")))).stdout == b"kept\n"
        with pytest.raises(NotFound):
            await sandbox.attach(left.exec_id)
        await sandbox.destroy()
        assert await self._nothing_is_left(untouched)

    async def test_letting_go_ends_nothing_and_it_is_taken_up_again(self, engine: Engine) -> None:
        sandbox_id = new_id()
        sandbox = await engine.boot(sandbox_id)
        process = await sandbox.start(Command(argv=shell(SLOW), detached=True))
        await sandbox.close()
        with pytest.raises(SandboxFailed):
            await sandbox.exec(Command(argv=shell("true")))
        again = await engine.recover(sandbox_id)
        assert (await _output(await again.attach(process.exec_id)))[1].endswith(b"line 5\n")

    async def test_one_engine_at_a_time_holds_a_sandbox(self, engine: Engine) -> None:
        async with self._other_engine(engine.owner, "sleep 600") as (_, sandbox_id, _):
            with pytest.raises(Conflict):
                await engine.recover(sandbox_id)
            with pytest.raises(Conflict):
                await engine.boot(sandbox_id)
            with pytest.raises(Conflict):
                await engine.discard(sandbox_id)
            assert await engine.sweep() == 0
        sandbox = await engine.recover(sandbox_id)
        assert (await sandbox.exec(Command(argv=shell("echo unharmed")))).stdout == b"unharmed\n"

    async def test_one_that_died_meanwhile_is_not_taken_up_but_keeps_its_files(self, engine: Engine) -> None:
        left = await self._killed_engine(engine.owner, "echo kept > kept; sync; echo done; sleep 600")
        if not left.processes:
            pytest.skip(f"sandboxes of {engine.backend.name} are not processes below their engine")
        taken_up = await engine.recover(left.sandbox_id)
        await _said(await taken_up.attach(left.exec_id), b"done\n")
        assert isinstance(taken_up, Mortal)
        death: asyncio.Future[AgentKernelError] = asyncio.get_running_loop().create_future()
        taken_up.when_lost(death.set_result)
        for pid in left.processes:
            with contextlib.suppress(ProcessLookupError):  # one of them has taken it along
                os.kill(pid, signal.SIGKILL)
        assert await eventually(left.has_ended)
        assert isinstance(await asyncio.wait_for(death, 30), SandboxLost)  # told by nothing but its death
        await taken_up.close()
        assert await engine.is_gone(left.sandbox_id)
        sandbox = await engine.boot(left.sandbox_id)
        assert (await sandbox.exec(Command(argv=shell("cat kept")))).stdout == b"kept\n"

    async def test_what_never_was_is_not_taken_up_and_discarding_it_is_fine(self, engine: Engine) -> None:
        sandbox_id = new_id()
        assert await engine.is_gone(sandbox_id)
        await engine.discard(sandbox_id)

    async def test_a_stop_keeps_files_as_they_are(self, engine: Engine) -> None:
        sandbox_id = new_id()
        sandbox = await engine.boot(sandbox_id)
        home = sandbox.spec.user.home
        pipe = "mkfifo pipe" if self.KEEPS_PIPES else ":"
        make = f"""
            {pipe}; mkdir -p tree/one/two; echo deep > tree/one/two/file; chmod 640 tree/one/two/file; chmod 750 tree/one
            printf '#!/bin/sh\\necho ran\\n' > script; chmod 755 script; : > empty; mkdir shut; chmod 500 shut
            ln -s tree/one link; ln -s /nowhere dangling; ln script other-name; chmod 1770 {home}; echo own > {home}/own
        """
        made = await sandbox.exec(Command(argv=shell(make)))
        assert (made.exit_code, made.stderr) == (0, b"")
        look = (
            rf'find . -printf "%p %M %n %l %s\n" | sort; find {home} -maxdepth 0 -printf "%m\n"; cat link/two/file {home}/own; ./other-name'
        )
        before = await sandbox.exec(Command(argv=shell(look)))
        assert before.stdout.endswith(b"1770\ndeep\nown\nran\n"), before
        await sandbox.stop()
        with pytest.raises(SandboxFailed):
            await sandbox.exec(Command(argv=shell("true")))
        await sandbox.stop()
        assert await engine.keeps(sandbox_id)
        again = await engine.boot(sandbox_id)
        after = await again.exec(Command(argv=shell(look)))
        assert after.stdout == before.stdout
        written = await again.exec(Command(argv=shell("echo more >> tree/one/two/file && cat tree/one/two/file && rm -r tree")))
        assert written.stdout == b"deep\nmore\n"

    async def test_files_in_memory_cannot_be_kept(self, engine: Engine, untouched: HostSnapshot) -> None:
        sandbox = await engine.boot(storage=StorageKind.MEMORY)
        assert (await sandbox.exec(Command(argv=shell("echo here")))).stdout == b"here\n"
        with pytest.raises(Unsupported):
            await sandbox.stop()
        await sandbox.destroy()
        assert await self._nothing_is_left(untouched)

    async def test_discarding_leaves_nothing(self, engine: Engine, untouched: HostSnapshot) -> None:
        hostile = "mkdir -p a/b/c d; chmod 000 a/b; : > d/f; chmod 500 d; mkfifo p; (setsid sleep 601 &); trap '' TERM; sleep 600"
        running = await self._killed_engine(engine.owner, hostile)
        stopped = new_id()
        sandbox = await engine.boot(stopped)
        await sandbox.exec(Command(argv=shell("mkdir -p a/b; chmod 500 a; echo x > file; chmod 000 file")))
        await sandbox.stop()
        for sandbox_id in (running.sandbox_id, stopped, running.sandbox_id):
            await engine.discard(sandbox_id)
            assert not isinstance(engine.backend, Keeping) or not await engine.keeps(sandbox_id)
        assert await self._nothing_is_left(untouched)

    async def test_a_sweep_removes_what_is_not_kept_and_nothing_of_others(self, engine: Engine, untouched: HostSnapshot) -> None:
        other = engine.of(os.urandom(16).hex())
        kept, unwanted = [await self._killed_engine(engine.owner, "sleep 600") for _ in range(2)]
        foreign = await self._killed_engine(other.owner, "sleep 600")
        stopped = new_id()
        await (await engine.boot(stopped)).stop()
        assert await engine.backend.sweep() == 0
        assert await engine.sweep(kept.sandbox_id) == 2
        assert await engine.is_gone(unwanted.sandbox_id)
        for left, its in ((kept, engine), (foreign, other)):
            await (await its.recover(left.sandbox_id)).close()
        assert (await other.sweep(), await engine.sweep()) == (1, 1)
        assert await self._nothing_is_left(untouched)

    async def test_nobody_but_its_owner_has_a_sandbox(self, engine: Engine) -> None:
        left = await self._killed_engine(engine.owner, "sleep 600")
        other = engine.of(os.urandom(16).hex())
        for state in ("running", "stopped"):
            with pytest.raises(Conflict):
                await other.recover(left.sandbox_id)
            with pytest.raises(Conflict):
                await other.boot(left.sandbox_id)
            with pytest.raises(Conflict):
                await other.discard(left.sandbox_id)
            if state == "running":
                await (await engine.recover(left.sandbox_id)).stop()

    async def test_a_boot_that_fails_leaves_the_files_of_earlier_ones(
        self, engine: Engine, untouched: HostSnapshot, tmp_path: Path
    ) -> None:
        absent = RootFilesystem(kind=RootKind.DIRECTORY, directory=str(tmp_path / "absent"), label="absent")
        with pytest.raises(AgentKernelError):
            await engine.boot(root=absent)
        assert await self._nothing_is_left(untouched)
        sandbox_id = new_id()
        sandbox = await engine.boot(sandbox_id)
        await sandbox.files.write(here(sandbox, "kept"), b"kept")
        await sandbox.stop()
        with pytest.raises(AgentKernelError):
            await engine.boot(sandbox_id, root=absent)
        sandbox = await engine.boot(sandbox_id)
        assert await sandbox.files.read(here(sandbox, "kept")) == b"kept"
        await sandbox.destroy()
        assert await self._nothing_is_left(untouched)

    @pytest.mark.parametrize("delay_ms", [0, 2, 5, 10, 20, 40])
    async def test_a_cancelled_boot_leaves_nothing(self, engine: Engine, untouched: HostSnapshot, delay_ms: int) -> None:
        task = asyncio.create_task(engine.boot())
        await asyncio.sleep(delay_ms / 1000)
        task.cancel()
        try:
            await (await task).destroy()  # it was faster
        except asyncio.CancelledError:
            pass
        assert await self._nothing_is_left(untouched)

    async def test_many_cycles_cost_no_descriptors_and_leave_no_processes(self, engine: Engine, untouched: HostSnapshot) -> None:
        sandbox_id = new_id()
        for number in range(CYCLES):
            sandbox = await engine.boot(sandbox_id)
            result = await sandbox.exec(Command(argv=shell(f"echo {number} >> log; cat log")))
            assert result.stdout.split() == [b"%d" % past for past in range(number + 1)]
            await sandbox.close()
            await (await engine.recover(sandbox_id)).stop()
        await engine.discard(sandbox_id)
        assert await self._nothing_is_left(untouched)


def new_id() -> str:
    """An id that no sandbox has."""
    return os.urandom(8).hex()


async def _output(process: Process) -> dict[int, bytes]:
    said = {1: b"", 2: b""}
    async with asyncio.timeout(30):
        async for stream, data in process.output():
            said[stream] += data
    return said


async def _said(process: Process, wanted: bytes) -> None:
    """Waits until a process has said just that."""
    said = b""
    async with asyncio.timeout(30):
        async for _, data in process.output():
            said += data
            if said == wanted:
                return
