"""The gVisor backend over the runsc of this host, or over the one that AGENTKERNEL_TEST_RUNSC names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conformance.roots import ENVIRONMENT, host_root

from agentkernel.abc import Backend, Sandbox
from agentkernel.abc_network import Egress
from agentkernel.backends.gvisor.backend import GvisorBackend
from agentkernel.egress.gate import EgressGate
from agentkernel.model.isolation import Feature, IsolationLevel, Support
from agentkernel.model.spec import SandboxSpec
from agentkernel.testing.conformance import BackendConformance


class TestGvisor(BackendConformance):
    @pytest.fixture
    def backend(self, state_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
        if "AGENTKERNEL_TEST_RUNSC" in os.environ:
            monkeypatch.setenv("AGENTKERNEL_RUNSC", os.environ["AGENTKERNEL_TEST_RUNSC"])
        self._state = state_directory
        return GvisorBackend(state_directory)

    KEEPS_PIPES = False

    def base_spec(self) -> SandboxSpec:
        return SandboxSpec(
            name="conformance", profile="moderate", root=host_root(), environment=ENVIRONMENT, level=IsolationLevel.USER_KERNEL
        )

    def watched_directories(self) -> Sequence[Path]:
        state, data = self._state / "gvisor", self._state / "data" / "gvisor"
        ranges = (self._state / "ranges", self._state / "data" / "ranges", self._state / "mount")
        return (*ranges, state / "sandboxes", state / "lasting", data / "sandboxes", data / "scratch")

    def processor_ms(self, sandbox: Sandbox) -> int | None:
        """Of every process in the sandbox's groups."""
        ticks = 0
        pids = {
            pid
            for path in Path("/sys/fs/cgroup").rglob(f"agentkernel-{sandbox.sandbox_id}/cgroup.procs")
            for pid in path.read_text().split()
        }
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks * 1000 // os.sysconf("SC_CLK_TCK")

    def egress(self) -> Egress:
        return EgressGate()

    def backend_in_another_process(self) -> tuple[Callable[..., Backend], tuple[object, ...]]:
        return GvisorBackend, (self._state,)

    async def test_the_workload_has_a_kernel_of_its_own(self, backend: Backend) -> None:
        fingerprint = await backend.probe()
        assert (fingerprint.ready, fingerprint.level, fingerprint.reason) == (True, IsolationLevel.USER_KERNEL, "")
        for feature in (Feature.HOST_ROOT, Feature.NETWORK_NONE, Feature.SECCOMP, Feature.USER_SWITCH, Feature.AGENT_SEPARATION):
            assert fingerprint.support(feature) is Support.NATIVE
