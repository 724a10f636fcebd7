"""The command line as users have it: a process, the namespaces backend, the guest of this tree."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from e2e.host import Host
from unit.cli_harness import SOURCE

DEADLINE_S = 60.0


@dataclass
class AgentKernel:
    """Runs `agentkernel` in a directory, with a home of its own."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def argv(self) -> list[str]:
        """How it is called."""
        return [sys.executable, "-m", "agentkernel"]

    def start(self, *arguments: str, **streams: int) -> subprocess.Popen[bytes]:
        """Starts it, with pipes where `streams` says nothing else."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        return subprocess.Popen([*self.argv, *arguments], cwd=self.directory, env=self.environment, **pipes)  # type: ignore[call-overload,no-any-return]

    def __call__(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Runs it to its end."""
        return subprocess.run(
            [*self.argv, *arguments], cwd=self.directory, env=self.environment, input=stdin, capture_output=True, timeout=DEADLINE_S
        )


@pytest.fixture(scope="session")
def shared_environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One home for all tests, so that the host is probed once."""
    home = tmp_path_factory.mktemp("home")
    guest = os.environ.get("AGENTKERNEL_GUEST") or str(request.getfixturevalue("guest_binary"))
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "LANG": "C.UTF-8", "AGENTKERNEL_GUEST": guest}
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("this host forbids user namespaces")
    probe = subprocess.run([sys.executable, "-m", "agentkernel", "doctor"], env=environment, capture_output=True, text=True)
    assert probe.returncode == 0, probe.stdout + probe.stderr
    return environment


@pytest.fixture
def agentkernel(shared_environment: dict[str, str], tmp_path: Path) -> AgentKernel:
    """The command line in an empty directory."""
    return AgentKernel(directory=tmp_path, environment=dict(shared_environment))


@pytest.fixture(autouse=True)
def host() -> Iterator[Host]:
    """After every test: nothing of any sandbox is left on the host."""
    found = Host()
    yield found
    assert found.leftovers() == []
