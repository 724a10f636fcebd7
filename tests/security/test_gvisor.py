"""Hostile programs in sandboxes of the gVisor backend: those that try what its kernel, its mounts and its first process keep.

AGENTKERNEL_SECURITY=all adds the others. Of these two claims do not hold as they stand: gVisor lets a workload read the map of the agent
(`agent_memory`), which holds nothing secret, and has devices of its own under the names of the host's (`devices`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.directories import own_temporary_directory
from conformance.roots import ENVIRONMENT, host_root
from security.catalogue import Program, programs
from security.inside import Attack
from security.oracle import Oracle
from security.outside import HOST_TOKEN
from security.planted import Planted

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
def state_directory(limits_missing: str, planted: Planted) -> Iterator[Path]:
    """The backend's own state, and the only temporary files of the test."""
    with own_temporary_directory() as directory:
        state = directory / "s"
        state.mkdir(mode=0o711)
        yield state


@pytest.fixture
async def backend(state_directory: Path, guest: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Ready, with everything made that it makes once."""
    if "AGENTKERNEL_TEST_RUNSC" in os.environ:
        monkeypatch.setenv("AGENTKERNEL_RUNSC", os.environ["AGENTKERNEL_TEST_RUNSC"])
    made = GvisorBackend(state_directory)
    fingerprint = await made.probe()
    if not fingerprint.ready:
        pytest.skip(f"the gVisor backend is not ready on this host: {fingerprint.reason}")
    return made


def wanted() -> list[Program]:
    return [program for program in programs() if ALL or program.name in TRIED]


@pytest.mark.parametrize("program", wanted(), ids=lambda program: program.name)
async def test_in_gvisor(
    program: Program,
    backend: Backend,
    planted: Planted,
    guest: Path,
    state_directory: Path,
    limits_missing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if program.bomb and limits_missing:
        pytest.skip(f"bombs need limits of the test's own: {limits_missing}")
    monkeypatch.setenv(HOST_TOKEN, planted.secret)
    own = [state_directory / "gvisor" / "sandboxes", state_directory / "ranges", state_directory / "mount"]
    oracle = Oracle(planted=planted, guest=guest, directories=own)
    attack = Attack(program=program, planted=planted, backend=backend, base=BASE, oracle=oracle)
    found = await attack.run()
    assert found == [], f"{program.claim}: {program.path.name} said {attack.output[-800:]!r}"
