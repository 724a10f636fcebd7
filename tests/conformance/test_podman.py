"""Podman, rootful or rootless as who runs the tests is; `test_podman_rootless.py` runs this file again as a plain user."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from engines.docker import image_of_tests
from engines.images import REFERENCE
from engines.podman import PodmanHost, podman_host, with_image_of_tests

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.backends.containers.podman import PodmanBackend
from agentkernel.egress.gate import EgressGate
from agentkernel.model.command import Command
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Support
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec
from agentkernel.testing.base import shell
from agentkernel.testing.conformance import BackendConformance
from agentkernel.testing.probe import PROBE_SOURCE, compile_static


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PodmanHost, str]]:
    """A Podman of the tests' own, with their image."""
    place = tmp_path_factory.getbasetemp()
    with podman_host() as host:
        archive = image_of_tests(place, compile_static(PROBE_SOURCE, place / "probe-of-image"))
        yield host, with_image_of_tests(host, archive)


@pytest.fixture(scope="module")
def found() -> dict[str, Fingerprint]:
    return {}


class TestPodman(BackendConformance):
    @pytest.fixture
    def backend(self, podman: tuple[PodmanHost, str], state_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
        host, self._image = podman
        self._state = state_directory
        for name, value in host.environment.items():
            monkeypatch.setenv(name, value)
        return PodmanBackend(state_directory)

    @pytest.fixture
    async def fingerprint(self, backend: Backend, found: dict[str, Fingerprint]) -> Fingerprint:
        """Asked for once: two tests compare it with what a later probe says."""
        if backend.name not in found:
            found[backend.name] = await backend.probe()
        assert found[backend.name].ready, found[backend.name].reason
        return found[backend.name]

    def base_spec(self) -> SandboxSpec:
        root = RootFilesystem(kind=RootKind.IMAGE, reference=REFERENCE, digest=self._image, label=REFERENCE)
        environment = (("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8"))
        return SandboxSpec(name="conformance", profile="moderate", root=root, environment=environment)

    def watched_directories(self) -> Sequence[Path]:
        own = self._state / "podman"
        return (own / "sandboxes", own / "lasting", self._state / "data" / "podman")

    def egress(self) -> Egress:
        return EgressGate()

    def backend_in_another_process(self) -> tuple[Callable[..., Backend], tuple[object, ...]]:
        return PodmanBackend, (self._state,)

    async def test_it_is_a_container_of_an_image_that_podman_keeps(self, backend: Backend) -> None:
        fingerprint = await backend.probe()
        assert (fingerprint.reason, fingerprint.ready, fingerprint.level) == ("", True, IsolationLevel.CONTAINER)
        assert fingerprint.details["rootless"] == str(os.geteuid() != 0).lower()
        for feature in (Feature.IMAGE_NAME, Feature.NETWORK_NONE, Feature.NETWORK_FILTERED, Feature.MOUNTS, Feature.USER_SWITCH):
            assert fingerprint.support(feature) is Support.NATIVE

    async def test_every_listed_runtime_runs(self, backend: Backend, fingerprint: Fingerprint) -> None:
        for runtime in fingerprint.runtimes:
            sandbox = await backend.create(replace(self.base_spec(), runtime=runtime.name))
            try:
                assert (await sandbox.exec(Command(argv=shell("echo runs")))).stdout == b"runs\n", runtime.name
            finally:
                await sandbox.destroy()
