"""The hostile programs in sandboxes of the namespaces backend: nothing of the host is read, changed, slowed or left dirty."""

from __future__ import annotations

import pytest
from conformance.roots import ENVIRONMENT, host_root
from security.catalogue import Program, programs
from security.inside_suite import Suite

from agentkernel.abc import Backend
from agentkernel.backends.namespaces.backend import NamespacesBackend
from agentkernel.model.spec import SandboxSpec

BASE = SandboxSpec(name="security", profile="moderate", root=host_root(), environment=ENVIRONMENT)


@pytest.fixture
async def backend(suite: Suite) -> Backend:
    """Ready, with everything made that it makes once."""
    made = NamespacesBackend(suite.state_directory)
    fingerprint = await made.probe()
    if not fingerprint.ready:
        pytest.skip(f"the namespaces backend is not ready on this host: {fingerprint.reason}")
    return made


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.name)
async def test_in_a_sandbox(program: Program, backend: Backend, suite: Suite) -> None:
    await suite.holds(program, backend, BASE, "sandboxes", "ranges", "mount")
