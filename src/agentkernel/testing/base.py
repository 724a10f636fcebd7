"""What the modules of the conformance suite share: the hooks that a subclass fills in and the fixtures built on them."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkernel.abc import Backend, Process, Sandbox
from agentkernel.abc_network import Egress
from agentkernel.model.isolation import Feature, Fingerprint, Support
from agentkernel.model.spec import Resources, SandboxSpec, WorkspaceMode
from agentkernel.testing.probe import PROBE_SOURCE, Probe, compile_static, install

MIB = 1024 * 1024


class ConformanceBase(ABC):
    """Fixtures of the suite. A subclass defines a pytest fixture `backend` and the method `base_spec`; the rest has defaults.

    The root that `base_spec` names must hold a POSIX shell, the usual small tools (cat, sleep, ...) and `stty`.
    """

    @abstractmethod
    def base_spec(self) -> SandboxSpec:
        """The plainest sandbox that the backend can make: it asks for nothing that the backend refuses."""

    def watched_directories(self) -> Sequence[Path]:
        """Directories of the host where the backend keeps its state; whatever appears there must go again."""
        return ()

    def backend_in_another_process(self) -> tuple[Callable[..., Backend], tuple[object, ...]] | None:
        """What makes the same backend, on the same state, elsewhere: a callable and its arguments, which can be pickled.

        None, where the backend cannot keep sandboxes beyond its process (`boot` raises Unsupported).
        """
        return None

    def egress(self) -> Egress | None:
        """A new egress proxy for sandboxes with filtered network, whose process is started with `sys.executable`.

        None, where the backend has no filtered network.
        """
        return None

    def spec(self, **changes: Any) -> SandboxSpec:
        """`base_spec` with changes."""
        return replace(self.base_spec(), **changes)

    def resources(self, **changes: Any) -> Resources:
        """The limits of `base_spec` with changes."""
        return replace(self.base_spec().resources, **changes)

    @pytest.fixture
    async def fingerprint(self, backend: Backend) -> Fingerprint:
        """The backend's own word, which the tests hold it to."""
        found = await backend.probe()
        if not found.ready:
            pytest.skip(f"the backend {found.backend} is not ready on this host: {found.reason}")
        return found

    @pytest.fixture
    async def sandbox(self, backend: Backend, fingerprint: Fingerprint) -> AsyncIterator[Sandbox]:
        """A sandbox of `base_spec`."""
        async with self.running(backend) as made:
            yield made

    @pytest.fixture
    def probe_binary(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The suite's static program, compiled once per run."""
        target = tmp_path_factory.getbasetemp() / "agentkernel-probe"
        if not target.exists() and compile_static(PROBE_SOURCE, target) is None:
            pytest.skip("this host has no C compiler for the suite's program")
        return target

    @pytest.fixture
    async def probe(self, sandbox: Sandbox, probe_binary: Path) -> Probe:
        """The suite's program inside `sandbox`."""
        return await install(sandbox, probe_binary)

    @asynccontextmanager
    async def running(self, backend: Backend, **changes: Any) -> AsyncIterator[Sandbox]:
        """A sandbox of `spec(**changes)`, destroyed at the end."""
        sandbox = await backend.create(self.spec(**changes))
        try:
            yield sandbox
        finally:
            await sandbox.destroy()

    @asynccontextmanager
    async def probing(self, backend: Backend, binary: Path, **changes: Any) -> AsyncIterator[Probe]:
        """As `running`, with the suite's program inside."""
        async with self.running(backend, **changes) as sandbox:
            yield await install(sandbox, binary)


def need(fingerprint: Fingerprint, feature: Feature) -> Support:
    """How the feature is provided; skips the test when the backend refuses it (then `test_what_is_refused_is_refused` holds it to that)."""
    provision = fingerprint.features.get(feature)
    if provision is None or provision.support is Support.REFUSED:
        pytest.skip(f"{fingerprint.backend} refuses {feature}: {provision.reason if provision else 'not declared'}")
    return provision.support


def scratch(sandbox: Sandbox) -> str:
    """Where commands run that name no directory: the workspace, or HOME where there is none; both are the sandbox's to write."""
    workspace = sandbox.spec.workspace
    return sandbox.spec.user.home if workspace.mode is WorkspaceMode.NONE else workspace.target


def here(sandbox: Sandbox, name: str) -> str:
    """A path in that directory."""
    return f"{scratch(sandbox).rstrip('/')}/{name}"


def shell(text: str) -> tuple[bytes, ...]:
    """The argv of a line for the sandbox's shell."""
    return (b"sh", b"-c", text.encode())


def noise(size: int, *, seed: int = 0) -> bytes:
    """Bytes without a pattern, the same each time."""
    return hashlib.shake_128(b"%d" % seed).digest(size)


async def eventually(condition: Callable[[], Awaitable[bool]], *, within_s: float = 10.0) -> bool:
    """Whether the condition comes true in time."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not await condition():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def read_until(process: Process, wanted: bytes, *, within_s: float = 10.0) -> bytes:
    """Collects a process's output until `wanted` is in it; for tests that read a process no further."""
    collected = bytearray()

    async def collect() -> None:
        async for _, data in process.output():
            collected.extend(data)
            if wanted in collected:
                return

    try:
        await asyncio.wait_for(collect(), within_s)
    except TimeoutError:
        pass
    assert wanted in collected, f"{wanted!r} did not come, only {bytes(collected)!r}"
    return bytes(collected)
