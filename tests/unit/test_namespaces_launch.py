"""What is started and cannot be kept is ended: a launch that fails on the host's side leaves no process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agentkernel.backends._linux import launch
from agentkernel.backends.namespaces.backend import NamespacesBackend
from agentkernel.backends.namespaces.fingerprint import probe_spec
from agentkernel.errors import AgentKernelError


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


async def test_a_first_process_that_gets_no_descriptor_is_ended(
    guest_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
    monkeypatch.setenv("AGENTKERNEL_HOME", str(tmp_path))
    backend = NamespacesBackend()
    if not (found := await backend.probe()).ready:
        pytest.skip(f"namespaces: {found.reason}")
    before = children()

    def exhausted(pid: int, flags: int = 0) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(launch.os, "pidfd_open", exhausted)
        with pytest.raises(AgentKernelError):
            await backend.create(probe_spec())
    assert children() <= before
    assert not list((tmp_path / "run" / "sandboxes").iterdir())
