"""The fingerprint is held to its word: what is refused is refused, what is emulated says why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkernel.abc import Backend, Sandbox
from agentkernel.abc_images import KeepsImages
from agentkernel.errors import AgentKernelError, Unsupported
from agentkernel.model.command import Command, TerminalSize
from agentkernel.model.isolation import Feature, Fingerprint, Support
from agentkernel.model.network import PortRule
from agentkernel.model.spec import Bind, NetworkMode, Resources, RootFilesystem, RootKind, Workspace, WorkspaceMode
from agentkernel.testing.base import MIB, ConformanceBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a feature is asked for: by the spec, or of a running sandbox."""

    changes: Callable[[str, Resources], dict[str, Any]] = field(default=lambda _directory, _limits: {})
    use: Callable[[Sandbox], Awaitable[object]] | None = None


def _image(directory: str, _limits: Resources) -> dict[str, Any]:
    return {"root": RootFilesystem(kind=RootKind.DIRECTORY, directory=directory)}


def _limited(**limit: Any) -> Callable[[str, Resources], dict[str, Any]]:
    return lambda _directory, _limits: {"resources": Resources(**{"memory_bytes": None, "cpus": None, "pids": None, **limit})}


ASKING: dict[Feature, Asking] = {
    Feature.TERMINAL: Asking(use=lambda sandbox: sandbox.exec(Command(argv=(b"true",), terminal=TerminalSize(rows=9, columns=9)))),
    Feature.FILES: Asking(use=lambda sandbox: sandbox.files.stat("/")),
    Feature.WATCH: Asking(use=lambda sandbox: anext(sandbox.files.watch("/"))),
    Feature.CONNECT: Asking(use=lambda sandbox: sandbox.connect(9)),
    Feature.HOST_ROOT: Asking(changes=lambda _directory, _limits: {"root": RootFilesystem(kind=RootKind.HOST)}),
    Feature.IMAGE_DIRECTORY: Asking(changes=_image),
    Feature.WORKSPACE_COPY_ON_WRITE: Asking(
        changes=lambda directory, _limits: {"workspace": Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=directory)}
    ),
    Feature.MOUNTS: Asking(changes=lambda directory, _limits: {"mounts": (Bind(source=directory, target="/mnt"),)}),
    Feature.READ_ONLY_ROOT: Asking(changes=lambda _directory, _limits: {"read_only_root": True}),
    Feature.NETWORK_NONE: Asking(changes=lambda _directory, _limits: {"network": NetworkMode.NONE}),
    Feature.NETWORK_HOST: Asking(changes=lambda _directory, _limits: {"network": NetworkMode.HOST}),
    Feature.NETWORK_FILTERED: Asking(changes=lambda _directory, _limits: {"network": NetworkMode.FILTERED}),
    Feature.TRANSPARENT_NETWORK: Asking(changes=lambda _directory, _limits: {"network": NetworkMode.FILTERED, "transparent_network": True}),
    Feature.PUBLISHED_PORTS: Asking(changes=lambda _directory, _limits: {"ports": (PortRule(port=80),)}),
    Feature.MEMORY_LIMIT: Asking(changes=_limited(memory_bytes=64 * MIB)),
    Feature.CPU_LIMIT: Asking(changes=_limited(cpus=0.5)),
    Feature.PIDS_LIMIT: Asking(changes=_limited(pids=64)),
    Feature.USER_SWITCH: Asking(use=lambda sandbox: sandbox.exec(Command(argv=(b"true",), user=(54321, 54321)))),
}


class DeclarationConformance(ConformanceBase):
    """What `probe` says."""

    async def test_every_feature_is_declared_and_every_lack_is_explained(self, backend: Backend, fingerprint: Fingerprint) -> None:
        assert fingerprint.backend == backend.name
        assert set(fingerprint.features) == set(Feature), "each feature is declared"
        lacking = [
            name for name, provision in fingerprint.features.items() if provision.support is not Support.NATIVE and not provision.reason
        ]
        assert lacking == [], "what is not native says why"

    async def test_probing_twice_says_the_same(self, backend: Backend, fingerprint: Fingerprint) -> None:
        assert await backend.probe() == fingerprint

    async def test_a_tar_image_needs_what_a_directory_needs(self, backend: Backend, fingerprint: Fingerprint) -> None:
        """But where the backend keeps images itself, which takes archives up as they are."""
        if fingerprint.support(Feature.IMAGE_TAR) is not Support.REFUSED and not isinstance(backend, KeepsImages):
            assert fingerprint.support(Feature.IMAGE_DIRECTORY) is not Support.REFUSED

    async def test_what_is_refused_is_refused(self, backend: Backend, fingerprint: Fingerprint, tmp_path: Path) -> None:
        refused = [feature for feature in ASKING if fingerprint.support(feature) is Support.REFUSED]
        given = [feature for feature in refused if not await self._is_refused(backend, feature, str(tmp_path))]
        assert given == [], "declared as refused, and given all the same"

    async def _is_refused(self, backend: Backend, feature: Feature, directory: str) -> bool:
        asking = ASKING[feature]
        spec = self.spec(**asking.changes(directory, self.base_spec().resources))
        try:
            sandbox = await backend.create(spec)
        except Unsupported:
            return asking.use is None
        try:
            if asking.use is not None:
                await asking.use(sandbox)
        except AgentKernelError:
            return True
        finally:
            await sandbox.destroy()
        return False
