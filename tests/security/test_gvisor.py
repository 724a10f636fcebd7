"""Hostile programs in sandboxes of the gVisor backend: those that try what its kernel, its mounts and its first process keep.

AGENTKERNEL_SECURITY=all adds the others. Of these two claims do not hold as they stand: gVisor lets a workload read the map of the agent
(`agent_memory`), which holds nothing secret, and has devices of its own under the names of the host's (`devices`).
"""

from __future__ import annotations

import os

import pytest
from conformance.roots import ENVIRONMENT, host_root
from security.catalogue import Program, programs
from security.inside_suite import Suite

from agentkernel.abc import Backend
from agentkernel.backends.gvisor.backend import GvisorBackend
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import SandboxSpec

ALL = os.environ.get("AGENTKERNEL_SECURITY") == "all"
TRIED = {
    "abstract_socket", "become_root", "change_root", "find_secret", "host_secrets", "host_sockets", "kernel_settings", "kill_supervisor",
    "make_device", "mask_swap", "masked_files", "mount_new", "proc_root", "remount", "set_user_id_file", "unshare_user",
}  # fmt: skip
BASE = SandboxSpec(name="security", profile="moderate", root=host_root(), environment=ENVIRONMENT, level=IsolationLevel.USER_KERNEL)


@pytest.fixture
async def backend(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Ready, with everything made that it makes once."""
    if "AGENTKERNEL_TEST_RUNSC" in os.environ:
        monkeypatch.setenv("AGENTKERNEL_RUNSC", os.environ["AGENTKERNEL_TEST_RUNSC"])
    made = GvisorBackend(suite.state_directory)
    fingerprint = await made.probe()
    if not fingerprint.ready:
        pytest.skip(f"the gVisor backend is not ready on this host: {fingerprint.reason}")
    return made


def wanted() -> list[Program]:
    return [program for program in programs() if ALL or program.name in TRIED]


@pytest.mark.parametrize("program", wanted(), ids=lambda program: program.name)
async def test_in_gvisor(program: Program, backend: Backend, suite: Suite) -> None:
    await suite.holds(program, backend, BASE, "gvisor/sandboxes", "ranges", "mount")
