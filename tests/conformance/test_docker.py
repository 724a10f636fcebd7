"""The Docker backend with a real dockerd, as root beside it: sockets, id-mapped mounts, control groups that this host sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conformance.roots import ENVIRONMENT
from engines.docker import DockerHost
from engines.images import REFERENCE

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.backends.containers.backend import DockerBackend
from agentkernel.egress.gate import EgressGate
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Support
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec
from agentkernel.testing.conformance import BackendConformance


@pytest.fixture(scope="module")
def found() -> dict[str, Fingerprint]:
    return {}


class TestDocker(BackendConformance):
    @pytest.fixture
    def backend(self, dockerd: DockerHost, state_directory: Path) -> Backend:
        self._engine, self._state = dockerd, state_directory
        return DockerBackend(state_directory, dockerd.environment)

    @pytest.fixture
    async def fingerprint(self, backend: Backend, found: dict[str, Fingerprint]) -> Fingerprint:
        """Asked for once: two tests compare it with what a later probe says."""
        if "docker" not in found:
            found["docker"] = await backend.probe()
        assert found["docker"].ready, found["docker"].reason
        return found["docker"]

    def base_spec(self) -> SandboxSpec:
        root = RootFilesystem(kind=RootKind.IMAGE, reference=REFERENCE, label="tests")
        return SandboxSpec(name="conformance", profile="moderate", root=root, environment=ENVIRONMENT)

    def watched_directories(self) -> Sequence[Path]:
        docker = self._state / "docker"
        volumes = self._engine.directory / "data" / "volumes"
        return (
            docker / "sandboxes",
            docker / "lasting",
            self._state / "data" / "docker",
            self._engine.directory / "data" / "containers",
            volumes,
        )

    def egress(self) -> Egress:
        return EgressGate()

    def backend_in_another_process(self) -> tuple[Callable[..., Backend], tuple[object, ...]]:
        return DockerBackend, (self._state, self._engine.environment)

    async def test_it_is_a_container_of_an_image(self, backend: Backend) -> None:
        fingerprint = await backend.probe()
        assert (fingerprint.ready, fingerprint.level, fingerprint.reason) == (True, IsolationLevel.CONTAINER, "")
        for feature in (Feature.IMAGE_NAME, Feature.NETWORK_FILTERED, Feature.SECCOMP, Feature.WORKSPACE_COPY_ON_WRITE, Feature.MOUNTS):
            assert fingerprint.support(feature) is Support.NATIVE
        assert fingerprint.support(Feature.HOST_ROOT) is Support.REFUSED
