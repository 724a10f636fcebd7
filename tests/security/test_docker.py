"""The hostile programs, and the attacks on the filtered network, in sandboxes of a real Docker Engine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines.docker import DockerHost, docker_host
from engines.images import python_image
from security.catalogue import Program
from security.in_containers import ALL, base_spec, wanted
from security.inside_suite import Suite
from security.network_suite import NetworkAttacks
from security.planted import Planted

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.backends.containers.backend import DockerBackend
from agentkernel.egress.gate import EgressGate
from agentkernel.model.spec import SandboxSpec


@pytest.fixture(scope="module")
def dockerd(limits_missing: str, planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    """An engine within the outer limits, and its containers, too."""
    del limits_missing, planted  # first, so that they are there
    own = next((line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), "/")
    with docker_host("--cgroup-parent", f"{own}/containers".replace("//", "/")) as host:
        host.load_image(python_image(tmp_path_factory.getbasetemp()))
        yield host
    for controller in Path("/sys/fs/cgroup").iterdir():
        for group in (f"{controller}{own}/containers", f"{controller}{own}"):
            with contextlib.suppress(OSError):  # not of this controller, or still the tests' own
                os.rmdir(group)


@pytest.fixture
async def backend(dockerd: DockerHost, suite: Suite) -> Backend:
    """With everything made that it makes once."""
    made = DockerBackend(suite.state_directory, dockerd.environment)
    await (await made.create(base_spec())).destroy()
    return made


@pytest.mark.parametrize("program", wanted(), ids=lambda program: program.name)
async def test_in_a_container(program: Program, backend: Backend, suite: Suite) -> None:
    await suite.holds(program, backend, base_spec(), "docker/sandboxes", "docker/lasting")


@pytest.mark.skipif(not ALL, reason="the egress process and the channel are the same as of other backends; AGENTKERNEL_SECURITY=all")
class TestDocker(NetworkAttacks):
    @pytest.fixture
    def backend(self, dockerd: DockerHost, guest: Path, tmp_path: Path) -> Backend:
        del guest  # it is named in the environment
        state = tmp_path / "s"
        state.mkdir(mode=0o711)
        return DockerBackend(state, dockerd.environment)

    def base_spec(self) -> SandboxSpec:
        return base_spec()

    def egress(self) -> Egress:
        return EgressGate()
