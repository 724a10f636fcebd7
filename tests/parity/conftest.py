"""One home for each place where the kernel is: in process, behind a daemon that is started on demand and ended by the test, and behind a
server of that daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from parity.fronts import Elsewhere
from remote_world import Server, serving
from unit.cli_harness import SOURCE


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A home and state of its own for these tests; a short path, because sockets lie in it."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode != 0:
        pytest.skip("this host forbids user namespaces")
    path = Path(tempfile.mkdtemp(prefix="ak-parity-", dir="/tmp"))
    path.chmod(0o755)
    guest = os.environ.get("AGENTKERNEL_GUEST") or str(request.getfixturevalue("guest_binary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(path))
        patch.setenv("AGENTKERNEL_HOME", str(path / "ak"))
        patch.setenv("AGENTKERNEL_GUEST", guest)
        patch.setenv("AGENTKERNEL_RUNSC", "")  # gVisor would be chosen where it is installed; these tests are of namespaces
        for name in ("XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "AGENTKERNEL_SOCKET"):
            patch.delenv(name, raising=False)
        patch.setenv("PYTHONPATH", str(SOURCE))
        yield path
        subprocess.run([sys.executable, "-m", "agentkernel", "daemon", "stop"], check=True, capture_output=True, timeout=60)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    """`agentkernel serve` before the daemon of this home."""
    pytest.importorskip("uvicorn", reason="needs the extra `api`")
    pytest.importorskip("websockets", reason="needs the extra `remote`")
    with serving(dict(os.environ)) as server:
        yield server


@pytest.fixture(scope="module")
def elsewhere(server: Server) -> Elsewhere:
    """That server, and its default token."""
    return Elsewhere(server.url, server.token())


@pytest.fixture(scope="module")
def elsewhere_with_host(server: Server) -> Elsewhere:
    """That server, and a token that may name what is on its host."""
    return Elsewhere(server.url, server.token("full", "host"))
