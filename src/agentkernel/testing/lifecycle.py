"""Being made and unmade: nothing is left, nothing is shared, nothing hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentkernel.abc import Backend
from agentkernel.errors import AgentKernelError, SandboxFailed
from agentkernel.model.command import Command, TerminalSize
from agentkernel.model.isolation import Fingerprint
from agentkernel.model.spec import RootFilesystem, RootKind
from agentkernel.testing.base import ConformanceBase, here, read_until, scratch, shell
from agentkernel.testing.host import HostSnapshot, adopting_orphans, leftovers, take
from agentkernel.testing.probe import install


class LifecycleConformance(ConformanceBase):
    """Create, destroy, sweep."""

    @pytest.fixture
    async def before(self, backend: Backend, fingerprint: Fingerprint) -> AsyncIterator[HostSnapshot]:
        """The host before the test, but after a first sandbox (what a backend makes once for all is no leftover)."""
        with adopting_orphans():
            async with self.running(backend) as sandbox:
                await sandbox.exec(Command(argv=shell("true")))
            await asyncio.sleep(0.1)
            yield take(self.watched_directories())

    async def test_a_sandbox_knows_what_it_is(self, backend: Backend, fingerprint: Fingerprint) -> None:
        async with self.running(backend, name="known") as sandbox:
            assert (sandbox.backend, sandbox.spec.name) == (backend.name, "known")

    async def test_destroying_leaves_nothing_on_the_host(self, backend: Backend, before: HostSnapshot, probe_binary: Path) -> None:
        async with self.running(backend) as sandbox:
            probe = await install(sandbox, probe_binary)
            await probe.run("daemon", here(sandbox, "beats"), "leave")
            await sandbox.start(probe.command("beat", here(sandbox, "more"), timeout_s=None))
            await sandbox.start(Command(argv=shell("sleep 600"), terminal=TerminalSize(rows=9, columns=9)))
            await sandbox.start(Command(argv=shell("trap '' TERM HUP INT; sleep 601"), detached=True))
            await anext(sandbox.files.watch(scratch(sandbox)))
            await sandbox.exec(
                Command(argv=shell("mkdir -p a/b/c; chmod 000 a/b; mkfifo fifo; mkdir closed; : > closed/file; chmod 500 closed"))
            )
        assert await leftovers(before, self.watched_directories()) == []

    async def test_destroying_again_is_fine(self, backend: Backend, before: HostSnapshot) -> None:
        sandbox = await backend.create(self.spec())
        await asyncio.gather(sandbox.destroy(), sandbox.destroy())
        await sandbox.destroy()
        assert await leftovers(before, self.watched_directories()) == []

    async def test_a_destroyed_sandbox_says_so(self, backend: Backend, fingerprint: Fingerprint) -> None:
        sandbox = await backend.create(self.spec())
        await sandbox.destroy()
        with pytest.raises(SandboxFailed):
            await asyncio.wait_for(sandbox.exec(Command(argv=shell("true"))), 10)
        with pytest.raises(SandboxFailed):
            await asyncio.wait_for(sandbox.statistics(), 10)

    async def test_destroying_ends_what_is_being_waited_for(self, backend: Backend, fingerprint: Fingerprint) -> None:
        sandbox = await backend.create(self.spec())
        process = await sandbox.start(Command(argv=shell("echo ready; exec sleep 600")))
        await read_until(process, b"ready")
        waiting = asyncio.create_task(sandbox.exec(Command(argv=shell("sleep 601"))))
        await asyncio.sleep(0.1)
        await sandbox.destroy()
        for pending in (waiting, asyncio.create_task(process.wait())):
            with pytest.raises(SandboxFailed):
                await asyncio.wait_for(pending, 10)

    async def test_a_sandbox_that_cannot_be_built_leaves_nothing(self, backend: Backend, before: HostSnapshot, tmp_path: Path) -> None:
        spec = self.spec(root=RootFilesystem(kind=RootKind.DIRECTORY, directory=str(tmp_path / "absent"), label="absent"))
        for _ in range(3):
            with pytest.raises(AgentKernelError):
                await (await backend.create(spec)).destroy()
        assert await leftovers(before, self.watched_directories()) == []

    @pytest.mark.parametrize("delay_ms", [0, 1, 3, 6, 12, 25])
    async def test_a_cancelled_creation_leaves_nothing(self, backend: Backend, before: HostSnapshot, delay_ms: int) -> None:
        task = asyncio.create_task(backend.create(self.spec()))
        await asyncio.sleep(delay_ms / 1000)
        task.cancel()
        try:
            await (await task).destroy()  # it was faster
        except asyncio.CancelledError:
            pass
        assert await leftovers(before, self.watched_directories()) == []

    async def test_many_sandboxes_at_once_know_nothing_of_each_other(self, backend: Backend, before: HostSnapshot) -> None:
        async def one(number: int) -> bytes:
            async with self.running(backend, name=f"many-{number}") as sandbox:
                await sandbox.files.write(here(sandbox, "number"), b"%d" % number)
                return (await sandbox.exec(Command(argv=shell("sleep 0.1; cat number; ls")))).stdout

        said = await asyncio.gather(*(one(number) for number in range(20)))
        assert list(said) == [b"%dnumber\n" % number for number in range(20)]
        assert await leftovers(before, self.watched_directories()) == []

    async def test_a_sweep_leaves_living_sandboxes_alone(self, backend: Backend, fingerprint: Fingerprint) -> None:
        await backend.sweep()
        async with self.running(backend) as sandbox:
            assert await backend.sweep() == 0
            assert (await sandbox.exec(Command(argv=shell("echo alive")))).stdout == b"alive\n"
