"""The conformance suite: what every backend proves, feature by feature.

A backend's test file is a subclass (pytest, with pytest-asyncio in auto mode):

    class TestMine(BackendConformance):
        @pytest.fixture
        def backend(self) -> Backend:
            return MineBackend()

        def base_spec(self) -> SandboxSpec:
            return SandboxSpec(name="conformance", profile="moderate", root=...)

`base_spec` is the plainest sandbox that the backend makes and asks for nothing that it refuses. For what `probe` declares native or
emulated the suite tests that it works; what it declares refused is asked for and must be refused before anything is done. A backend with
filtered network overrides `egress` too (`return EgressGate()`): its network is tried against servers in namespaces of the suite's own.
"""

from __future__ import annotations

from agentkernel.testing.declared import DeclarationConformance
from agentkernel.testing.exec import EndConformance, InputConformance, OutputConformance
from agentkernel.testing.files import ConnectConformance, FilesConformance, WatchConformance
from agentkernel.testing.isolation import KernelConformance, NetworkConformance, RootConformance
from agentkernel.testing.lasting import LastingConformance
from agentkernel.testing.lifecycle import LifecycleConformance
from agentkernel.testing.limits import LimitsConformance
from agentkernel.testing.network import ReachConformance, RefusalConformance
from agentkernel.testing.network_load import LoadConformance, TransparentConformance
from agentkernel.testing.network_ssh import SshConformance
from agentkernel.testing.ports import PortConformance
from agentkernel.testing.terminal import TerminalConformance
from agentkernel.testing.workspace import WorkspaceConformance


class BackendConformance(
    DeclarationConformance,
    InputConformance,
    OutputConformance,
    EndConformance,
    TerminalConformance,
    FilesConformance,
    WatchConformance,
    ConnectConformance,
    RootConformance,
    NetworkConformance,
    ReachConformance,
    RefusalConformance,
    SshConformance,
    LoadConformance,
    TransparentConformance,
    PortConformance,
    KernelConformance,
    WorkspaceConformance,
    LimitsConformance,
    LifecycleConformance,
    LastingConformance,
):
    """All of the suite."""
