"""Fixtures that several test files share: the launcher's, and the channel's with an agent that the test plays."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from channel_peer import QUICK, FakeBoundary, Peer
from unit.guest_agent import build_sanitized

from agentkernel.channel.sandbox import GuestSandbox, open_sandbox

GUEST = "AGENTKERNEL_GUEST"
CGROUP_ROOTS = {1: Path("/sys/fs/cgroup/pids"), 2: Path("/sys/fs/cgroup/unified")}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may pass through: pytest's own are root's alone."""
    path = Path(tempfile.mkdtemp(prefix="agentkernel-test-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def sanitized_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sanitized(tmp_path_factory.mktemp("sanitized"))


@pytest.fixture(params=["plain", "sanitized"])
def binary(request: pytest.FixtureRequest) -> Path:
    name = "guest_binary" if request.param == "plain" else "sanitized_binary"
    found: Path = request.getfixturevalue(name)
    return found


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every user may pass through, with a path short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="ak-agent-", dir="/tmp"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@functools.cache
def _can_make_namespaces() -> bool:
    argv = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "true"]
    return shutil.which("unshare") is not None and subprocess.run(argv, check=False, capture_output=True).returncode == 0


@pytest.fixture
def guest(request: pytest.FixtureRequest, place: Path) -> Path:
    """A copy of the guest binary of its own: which every user may execute, and whose processes can be told from all others."""
    if not _can_make_namespaces():
        pytest.skip("needs user namespaces: containers and some hardened kernels refuse them")
    binary = os.environ.get(GUEST) or request.getfixturevalue("guest_binary")
    copy = place / "guest"
    shutil.copy(binary, copy)
    copy.chmod(0o755)
    return copy


@pytest.fixture
def cgroups() -> Iterator[dict[int, Path]]:
    """An empty cgroup of each kind: 1 (pids of v1) and 2."""
    if not all(root.is_dir() for root in CGROUP_ROOTS.values()):
        pytest.skip("needs hybrid cgroups: a v1 pids hierarchy, and v2 at /sys/fs/cgroup/unified")
    name = f"agentkernel-test-{uuid.uuid4().hex[:8]}"
    made = {kind: root / name for kind, root in CGROUP_ROOTS.items()}
    for path in made.values():
        path.mkdir()
    yield made
    for path in made.values():
        path.rmdir()


@pytest.fixture
async def boundary() -> AsyncIterator[FakeBoundary]:
    """A boundary whose agent the test plays."""
    boundary = FakeBoundary()
    yield boundary
    boundary.end()


@pytest.fixture
async def sandbox(boundary: FakeBoundary) -> AsyncIterator[GuestSandbox]:
    """A sandbox over it, with short deadlines."""
    sandbox = await open_sandbox(boundary, QUICK)
    yield sandbox
    await sandbox.close()


@pytest.fixture
async def peer(boundary: FakeBoundary, sandbox: GuestSandbox) -> Peer:
    """The agent's end of the first attach, configured."""
    peer = await boundary.attach()
    await peer.configure()
    return peer
