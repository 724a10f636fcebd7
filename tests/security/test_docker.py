"""The hostile programs, and the attacks on the filtered network, in sandboxes of a real Docker Engine.

Those that try what a container engine itself builds are always run; AGENTKERNEL_SECURITY=all adds the others, whose defence (the guest, the
system call filter, the channel) is the same as of the namespaces backend.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.roots import ENVIRONMENT
from engines.docker import DockerHost, docker_host
from engines.images import REFERENCE, python_image
from security.catalogue import Program, programs
from security.inside_suite import Suite
from security.network_suite import NetworkAttacks
from security.planted import Planted

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.backends.containers.backend import DockerBackend
from agentkernel.egress.gate import EgressGate
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec

ALL = os.environ.get("AGENTKERNEL_SECURITY") == "all"
BUILT_BY_THE_ENGINE = {
    "abstract_socket", "agent_memory", "become_root", "change_root", "control_groups", "core_dump", "debug_files", "devices",
    "enter_namespaces", "environment_leak", "find_secret", "fork_bomb", "host_secrets", "host_sockets", "kernel_settings",
    "kill_everything", "leaked_descriptors", "make_device", "masked_files", "memory_anonymous", "memory_tmpfs", "mount_new",
    "open_by_handle", "proc_root", "remount", "set_user_id_file", "sys_files", "unshare_user", "x32",
}  # fmt: skip
# Nothing of the host is in the root of an image: what is overwritten there is the sandbox's own copy.
OF_THE_HOSTS_ROOT = {"overwrite_system"}
BASE = SandboxSpec(
    name="security", profile="moderate", root=RootFilesystem(kind=RootKind.IMAGE, reference=REFERENCE), environment=ENVIRONMENT
)


def wanted() -> list[Program]:
    return [program for program in programs() if program.name not in OF_THE_HOSTS_ROOT and (ALL or program.name in BUILT_BY_THE_ENGINE)]


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
    await (await made.create(BASE)).destroy()
    return made


@pytest.mark.parametrize("program", wanted(), ids=lambda program: program.name)
async def test_in_a_container(program: Program, backend: Backend, suite: Suite) -> None:
    await suite.holds(program, backend, BASE, "docker/sandboxes", "docker/lasting")


@pytest.mark.skipif(not ALL, reason="the egress process and the channel are the same as of other backends; AGENTKERNEL_SECURITY=all")
class TestDocker(NetworkAttacks):
    @pytest.fixture
    def backend(self, dockerd: DockerHost, guest: Path, tmp_path: Path) -> Backend:
        del guest  # it is named in the environment
        state = tmp_path / "s"
        state.mkdir(mode=0o711)
        return DockerBackend(state, dockerd.environment)

    def base_spec(self) -> SandboxSpec:
        return BASE

    def egress(self) -> Egress:
        return EgressGate()
