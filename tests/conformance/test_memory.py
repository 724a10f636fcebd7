"""The backend that isolates nothing passes the suite with what it declares: it shows that the suite itself and the guest work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agentkernel.abc import Backend
from agentkernel.backends.memory.backend import MemoryBackend
from agentkernel.errors import BackendUnavailable, Unsupported
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import NetworkMode, Resources, RootFilesystem, RootKind, SandboxSpec
from agentkernel.testing.conformance import BackendConformance

UNLIMITED = Resources(memory_bytes=None, cpus=None, pids=None)


class TestMemory(BackendConformance):
    @pytest.fixture
    def backend(self, state_directory: Path) -> Backend:
        self._state = state_directory
        return MemoryBackend(state_directory)

    def watched_directories(self) -> Sequence[Path]:
        return (self._state,)

    def backend_in_another_process(self) -> tuple[Callable[..., Backend], tuple[object, ...]]:
        return MemoryBackend, (self._state,)

    def base_spec(self) -> SandboxSpec:
        return SandboxSpec(
            name="conformance",
            profile="permissive",
            root=RootFilesystem(kind=RootKind.HOST),
            network=NetworkMode.HOST,
            resources=UNLIMITED,
            environment=(("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8")),
        )

    async def test_it_claims_no_isolation(self, backend: Backend) -> None:
        assert (await backend.probe()).level is IsolationLevel.NONE
        sandbox = await backend.create(self.spec())
        try:
            assert sandbox.spec.level is IsolationLevel.NONE
        finally:
            await sandbox.destroy()

    async def test_a_refusal_names_the_feature_and_comes_before_any_effect(self, backend: Backend) -> None:
        with pytest.raises(Unsupported, match="network-none"):
            await backend.create(self.spec(network=NetworkMode.NONE))

    async def test_without_a_guest_it_is_not_ready_and_says_why(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AGENTKERNEL_GUEST", "/absent/agentkernel-guest")
        fingerprint = await backend.probe()
        assert not fingerprint.ready
        assert "/absent/agentkernel-guest" in fingerprint.reason
        with pytest.raises(BackendUnavailable, match="missing"):
            await backend.create(self.spec())
