"""The attacks on the filtered network against the namespaces backend."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance.roots import ENVIRONMENT, host_root
from security.network_suite import NetworkAttacks

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.backends.namespaces.backend import NamespacesBackend
from agentkernel.egress.gate import EgressGate
from agentkernel.model.spec import SandboxSpec


class TestNamespaces(NetworkAttacks):
    @pytest.fixture
    def backend(self, guest: Path, tmp_path: Path) -> Backend:
        del guest  # it is named in the environment
        state = tmp_path / "s"
        state.mkdir(mode=0o711)
        return NamespacesBackend(state)

    def base_spec(self) -> SandboxSpec:
        return SandboxSpec(name="security", profile="moderate", root=host_root(), environment=ENVIRONMENT)

    def egress(self) -> Egress:
        return EgressGate()
