"""The namespaces backend, as whoever runs the tests; `test_as_plain_user.py` runs this file again without privileges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conformance.roots import ENVIRONMENT, host_root

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.backends.namespaces.backend import NamespacesBackend
from agentkernel.egress.gate import EgressGate
from agentkernel.model.isolation import Feature, IsolationLevel, Support
from agentkernel.model.spec import SandboxSpec
from agentkernel.testing.conformance import BackendConformance


class TestNamespaces(BackendConformance):
    @pytest.fixture
    def backend(self, state_directory: Path) -> Backend:
        self._state = state_directory
        return NamespacesBackend(state_directory)

    def base_spec(self) -> SandboxSpec:
        return SandboxSpec(name="conformance", profile="moderate", root=host_root(), environment=ENVIRONMENT)

    def watched_directories(self) -> Sequence[Path]:
        state, data = self._state, self._state / "data"
        own = (state / "sandboxes", state / "lasting", state / "ranges", state / "mount")
        return (*own, data / "sandboxes", data / "ranges", data / "scratch")

    def egress(self) -> Egress:
        return EgressGate()

    def backend_in_another_process(self) -> tuple[Callable[..., Backend], tuple[object, ...]]:
        return NamespacesBackend, (self._state,)

    async def test_it_is_a_container_and_hides_the_host_natively(self, backend: Backend) -> None:
        fingerprint = await backend.probe()
        assert (fingerprint.ready, fingerprint.level, fingerprint.reason) == (True, IsolationLevel.CONTAINER, "")
        for feature in (Feature.HOST_ROOT, Feature.NETWORK_NONE, Feature.SECCOMP, Feature.WORKSPACE_COPY_ON_WRITE, Feature.READ_ONLY_ROOT):
            assert fingerprint.support(feature) is Support.NATIVE
