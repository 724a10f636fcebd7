"""Hostile programs in sandboxes of the gVisor backend: those that try what its kernel, its mounts and its first process keep.

AGENTKERNEL_SECURITY=all adds the others.
"""

from __future__ import annotations

import os

import pytest
from _pytest.mark import ParameterSet
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
NOT_AS_CLAIMED = {
    "agent_memory": "gVisor lets everybody read a process's map and environment; the agent's hold nothing secret",
    "devices": "gVisor has devices of its own under the names of the host's",
    "realtime_priority": "gVisor takes any nice value, and does nothing with it",
}
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


def wanted() -> list[ParameterSet]:
    """What does not hold is tried as well: a release in which it does shall be noticed."""
    found = [program for program in programs() if ALL or program.name in TRIED]
    lacks = {name: [pytest.mark.xfail(reason=reason, strict=True)] for name, reason in NOT_AS_CLAIMED.items()}
    return [pytest.param(program, id=program.name, marks=lacks.get(program.name, [])) for program in found]


@pytest.mark.parametrize("program", wanted())
async def test_in_gvisor(program: Program, backend: Backend, suite: Suite) -> None:
    await suite.holds(program, backend, BASE, "gvisor/sandboxes", "ranges", "mount")
