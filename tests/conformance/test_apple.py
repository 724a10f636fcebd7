"""Apple's containers, as far as a stand-in for their program can tell: it takes the documented commands and runs machines of namespaces.

The parts of the suite that depend on the program: streams, what is shown of the host, networks, making and unmaking, lasting. What commands
do is the agent's, and tried with the other backends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from conformance.roots import ENVIRONMENT
from engines.apple import DIGEST, REFERENCE, AppleStandIn, apple_stand_in, lacking

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.backends.containers.apple.backend import AppleBackend
from agentkernel.egress.gate import EgressGate
from agentkernel.model.command import Command
from agentkernel.model.image import PullPolicy
from agentkernel.model.isolation import Fingerprint
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec
from agentkernel.testing.base import shell
from agentkernel.testing.declared import DeclarationConformance
from agentkernel.testing.exec import InputConformance, OutputConformance
from agentkernel.testing.host import HostSnapshot, host_processes
from agentkernel.testing.isolation import NetworkConformance, RootConformance
from agentkernel.testing.lasting import Engine, LastingConformance, new_id
from agentkernel.testing.lifecycle import LifecycleConformance
from agentkernel.testing.network import ReachConformance
from agentkernel.testing.ports import PortConformance
from agentkernel.testing.workspace import WorkspaceConformance

pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"the stand-in's machines take {lacking()}")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppleStandIn]:
    """One program for all tests, as on a Mac: it keeps its images."""
    with apple_stand_in(tmp_path_factory.mktemp("apple")) as stand_in:
        yield stand_in
        assert stand_in.machines() == []


class TestApple(
    DeclarationConformance,
    InputConformance,
    OutputConformance,
    RootConformance,
    NetworkConformance,
    ReachConformance,
    PortConformance,
    WorkspaceConformance,
    LifecycleConformance,
    LastingConformance,
):
    _found: Fingerprint | None = None

    @pytest.fixture
    async def backend(self, state_directory: Path, program: AppleStandIn) -> Backend:
        self._state, self._program = state_directory, program
        backend = AppleBackend(*self._arguments())
        await backend.keeper.obtain(REFERENCE, PullPolicy.MISSING, lambda _: None)
        return backend

    @pytest.fixture
    async def fingerprint(self, backend: Backend) -> Fingerprint:
        """Probed once: on this program it cannot be another."""
        if TestApple._found is None:
            TestApple._found = await backend.probe()
        assert TestApple._found.ready, TestApple._found.reason
        return TestApple._found

    async def test_one_that_died_meanwhile_is_not_taken_up_but_keeps_its_files(self, engine: Engine) -> None:
        """Its machines are not processes below their engine: this one dies by the program."""
        sandbox = await engine.boot(sandbox_id := new_id())
        assert (await sandbox.exec(Command(argv=shell("echo kept > kept")))).exit_code == 0
        await sandbox.close()
        subprocess.run([self._program.program, "stop", "--signal", "KILL", "--time", "5", f"agentkernel-{sandbox_id}"], check=True)
        assert await engine.is_gone(sandbox_id)
        again = await engine.boot(sandbox_id)
        assert (await again.exec(Command(argv=shell("cat kept")))).stdout == b"kept\n"

    async def test_a_read_only_root_cannot_be_written(self, backend: Backend, fingerprint: Fingerprint) -> None:
        """With the image's own programs: nothing can be put into it."""
        async with self.running(backend, read_only_root=True) as sandbox:
            tried = await sandbox.exec(Command(argv=shell("cd /; touch /x /etc/x /var/tmp/x ~/x /workspace/x; touch /tmp/x && echo tmp")))
        assert tried.stdout == b"tmp\n"
        assert tried.stderr.count(b"Read-only file system") == 5, tried.stderr

    async def _nothing_is_left(self, before: HostSnapshot) -> bool:
        """The program's own processes, whose engine was killed, are the first process's to reap: for these tests that is this one."""
        for process in host_processes().values():
            if process.state == "Z" and process.name == "nsenter":
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, 0)
        return await super()._nothing_is_left(before)

    def _arguments(self) -> tuple[Path, str]:
        return self._state / "own", str(self._program.program)

    def watched_directories(self) -> Sequence[Path]:
        own = self._state / "own"
        return (own / "sandboxes", own / "lasting", self._program.state / "machines")

    def backend_in_another_process(self) -> tuple[Callable[..., Backend], tuple[object, ...]]:
        return AppleBackend, self._arguments()

    def egress(self) -> Egress:
        return EgressGate()

    def base_spec(self) -> SandboxSpec:
        root = RootFilesystem(kind=RootKind.IMAGE, reference=REFERENCE, digest=DIGEST, label="system")
        return SandboxSpec(name="conformance", profile="moderate", root=root, environment=ENVIRONMENT)
