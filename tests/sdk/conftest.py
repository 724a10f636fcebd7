"""A daemon of the tests' own, and of a machine where none is; the server before it and the way there are `remote_world`'s."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_world import DEADLINE_S, server, token, wire
from unit.cli_harness import SOURCE

__all__ = ["server", "token", "wire"]  # fixtures


@pytest.fixture(scope="module")
def there(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The environment of who runs the daemon; a short path, because sockets lie in it."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode != 0:
        pytest.skip("this host forbids user namespaces")
    home = Path(tempfile.mkdtemp(prefix="ak-sdk-", dir="/tmp"))
    home.chmod(0o755)
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),
        "AGENTKERNEL_HOME": str(home / "ak"),
        "AGENTKERNEL_GUEST": os.environ.get("AGENTKERNEL_GUEST") or str(request.getfixturevalue("guest_binary")),
        "AGENTKERNEL_RUNSC": "",  # gVisor would be chosen where it is installed; these tests are of namespaces
    }
    yield environment
    stop = [sys.executable, "-m", "agentkernel", "daemon", "stop"]
    subprocess.run(stop, env=environment, check=True, capture_output=True, timeout=DEADLINE_S)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process is on a machine where no daemon is, and none is started."""
    for name in ("AGENTKERNEL_HOST", "AGENTKERNEL_TOKEN", "AGENTKERNEL_TOKEN_FILE", "AGENTKERNEL_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENTKERNEL_HOME", str(tmp_path / "here"))
    yield tmp_path
    assert not (tmp_path / "here").exists()
