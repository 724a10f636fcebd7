"""The gVisor backend over the runsc in PATH. AGENTKERNEL_RUNSC names another one, to have another release tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conformance.roots import ENVIRONMENT, host_root

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.backends.gvisor.backend import GvisorBackend
from agentkernel.egress.gate import EgressGate
from agentkernel.model.isolation import Feature, IsolationLevel, Support
from agentkernel.model.spec import SandboxSpec
from agentkernel.testing.conformance import BackendConformance


class TestGvisor(BackendConformance):
    @pytest.fixture
    def backend(self, state_directory: Path) -> Backend:
        self._state = state_directory
        return GvisorBackend(state_directory)

    def base_spec(self) -> SandboxSpec:
        return SandboxSpec(
            name="conformance", profile="moderate", root=host_root(), environment=ENVIRONMENT, level=IsolationLevel.USER_KERNEL
        )

    def watched_directories(self) -> Sequence[Path]:
        state, data = self._state / "gvisor", self._state / "data" / "gvisor"
        ranges = (self._state / "ranges", self._state / "data" / "ranges", self._state / "mount")
        return (*ranges, state / "sandboxes", state / "lasting", data / "sandboxes", data / "scratch")

    def egress(self) -> Egress:
        return EgressGate()

    def backend_in_another_process(self) -> tuple[Callable[..., Backend], tuple[object, ...]]:
        return GvisorBackend, (self._state,)

    async def test_the_workload_has_a_kernel_of_its_own(self, backend: Backend) -> None:
        fingerprint = await backend.probe()
        assert (fingerprint.ready, fingerprint.level, fingerprint.reason) == (True, IsolationLevel.USER_KERNEL, "")
        for feature in (Feature.HOST_ROOT, Feature.NETWORK_NONE, Feature.SECCOMP, Feature.USER_SWITCH, Feature.AGENT_SEPARATION):
            assert fingerprint.support(feature) is Support.NATIVE
