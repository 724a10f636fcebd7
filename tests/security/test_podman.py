"""The hostile programs, and the attacks on the filtered network, in sandboxes of a real Podman: rootful or rootless as who runs the tests
is; `test_as_plain_user.py` runs this file again as a plain user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from engines.images import python_image
from engines.podman import CONTAINERS_GROUP, PodmanHost, podman_host, with_image_of_tests
from security.catalogue import Program
from security.guard import limited_groups
from security.in_containers import ALL, base_spec, wanted
from security.inside_suite import Suite
from security.network_suite import NetworkAttacks
from security.planted import Planted

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.backends.containers.podman import PodmanBackend
from agentkernel.egress.gate import EgressGate
from agentkernel.model.spec import SandboxSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """A Podman with the tests' image, and why its containers are within no outer limits (empty: they are)."""

    host: PodmanHost
    image: str
    limits_missing: str


@pytest.fixture(scope="module")
def podman(limits_missing: str, planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    """Within the outer limits, as far as this user may make any."""
    del planted  # first, so that it is there
    with limited_groups(CONTAINERS_GROUP) as missing, podman_host() as host:
        image = with_image_of_tests(host, python_image(tmp_path_factory.getbasetemp()))
        yield Limited(host=host, image=image, limits_missing=limits_missing or missing)


@pytest.fixture
def base(podman: Limited, monkeypatch: pytest.MonkeyPatch) -> SandboxSpec:
    """A sandbox of that image, of the Podman that this process's environment names."""
    for name, value in podman.host.environment.items():
        monkeypatch.setenv(name, value)
    return base_spec(podman.image)


@pytest.fixture
async def backend(base: SandboxSpec, suite: Suite) -> Backend:
    """With everything made that it makes once."""
    made = PodmanBackend(suite.state_directory)
    await (await made.create(base)).destroy()
    return made


@pytest.mark.parametrize("program", wanted(), ids=lambda program: program.name)
async def test_in_a_container(program: Program, backend: Backend, base: SandboxSpec, suite: Suite, podman: Limited) -> None:
    limited = replace(suite, limits_missing=podman.limits_missing)
    await limited.holds(program, backend, base, "podman/sandboxes", "podman/lasting")


@pytest.mark.skipif(not ALL, reason="the egress process and the channel are the same as of other backends; AGENTKERNEL_SECURITY=all")
class TestPodman(NetworkAttacks):
    @pytest.fixture
    def backend(self, base: SandboxSpec, guest: Path, tmp_path: Path) -> Backend:
        del guest  # it is named in the environment
        self._base = base
        state = tmp_path / "s"
        state.mkdir(mode=0o711)
        return PodmanBackend(state)

    def base_spec(self) -> SandboxSpec:
        return self._base

    def egress(self) -> Egress:
        return EgressGate()
