"""The command line as users have it: a process, the namespaces backend, the guest of this tree; in process, and behind a daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from e2e.host import Host, wait_until
from remote_world import Wire, server, token, wire
from unit.cli_harness import SOURCE

__all__ = ["server", "token", "wire"]  # fixtures

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

    def daemon_pid(self) -> int:
        """Of the daemon; 0: none runs."""
        status = self("daemon", "status", "--json")
        return int(json.loads(status.stdout)["pid"]) if status.returncode == 0 else 0

    def kill_daemon(self) -> None:
        """As a crash would; a client may just be starting it."""
        pids: list[int] = []
        wait_until(lambda: pids.append(self.daemon_pid()) or pids[-1])
        process = os.pidfd_open(pids[-1])
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)


@pytest.fixture(scope="session")
def shared_environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One home for all tests, so that the host is probed once."""
    home = tmp_path_factory.mktemp("home")
    guest = os.environ.get("AGENTKERNEL_GUEST") or str(request.getfixturevalue("guest_binary"))
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),
        "LANG": "C.UTF-8",
        "AGENTKERNEL_GUEST": guest,
        "AGENTKERNEL_DAEMON": "off",
        "AGENTKERNEL_RUNSC": "",  # gVisor would be chosen where it is installed; these tests are of namespaces
    }
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("this host forbids user namespaces")
    probe = subprocess.run([sys.executable, "-m", "agentkernel", "doctor"], env=environment, capture_output=True, text=True)
    assert probe.returncode == 0, probe.stdout + probe.stderr
    return environment


@pytest.fixture(scope="session")
def daemon_environment(shared_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The same with a daemon of its own, which is stopped after the last test. Without pools, so that whatever is left was left over."""
    base = tmp_path_factory.mktemp("ak")
    configuration = Path(shared_environment["HOME"]) / ".config" / "agentkernel"
    configuration.mkdir(parents=True, exist_ok=True)
    (configuration / "config.toml").write_text("[pool]\nenabled = false\n")
    environment = shared_environment | {"AGENTKERNEL_HOME": str(base), "AGENTKERNEL_DAEMON": "on"}
    yield environment
    stop = subprocess.run([sys.executable, "-m", "agentkernel", "daemon", "stop"], env=environment, capture_output=True, timeout=DEADLINE_S)
    assert stop.returncode == 0, stop.stderr
    assert Host(base / "run").lasting() == []


@pytest.fixture(scope="module")
def there(daemon_environment: dict[str, str]) -> dict[str, str]:
    """For whom a server serves."""
    return daemon_environment


@pytest.fixture
def behind_daemon(daemon_environment: dict[str, str], tmp_path: Path) -> Iterator[AgentKernel]:
    """The command line in an empty directory, with a daemon; after the test no sandbox is left but those that it removes here."""
    found = AgentKernel(directory=tmp_path, environment=dict(daemon_environment))
    yield found
    names = found("list", "--all", "--quiet").stdout.decode().split()
    if names:
        found("remove", "--force", *names)
    assert Host(Path(daemon_environment["AGENTKERNEL_HOME"]) / "run").lasting() == []


@pytest.fixture
def remote(behind_daemon: AgentKernel, wire: Wire, token: str, tmp_path: Path) -> Iterator[AgentKernel]:
    """The command line on a machine without a daemon, and without a home in common with the one that has it."""
    here = tmp_path / "here"
    (here / "home").mkdir(parents=True)
    environment = {
        name: behind_daemon.environment[name] for name in ("PATH", "PYTHONPATH", "LANG", "AGENTKERNEL_GUEST", "AGENTKERNEL_RUNSC")
    }
    environment |= {"HOME": str(here / "home"), "AGENTKERNEL_HOME": str(here / "ak")}
    yield AgentKernel(here, environment | {"AGENTKERNEL_HOST": wire.url, "AGENTKERNEL_TOKEN": token})
    assert not (here / "ak" / "run" / "daemon.sock").exists(), "a daemon was started here"


@pytest.fixture
def agentkernel_in_process(shared_environment: dict[str, str], tmp_path: Path) -> AgentKernel:
    """The command line in an empty directory, without a daemon."""
    return AgentKernel(directory=tmp_path, environment=dict(shared_environment))


@pytest.fixture
def agentkernel(agentkernel_in_process: AgentKernel) -> AgentKernel:
    """That, where a test does not say otherwise."""
    return agentkernel_in_process


@pytest.fixture(autouse=True)
def host() -> Iterator[Host]:
    """After every test: nothing of any sandbox is left on the host."""
    found = Host()
    before = found.present()
    yield found
    assert found.leftovers(before) == []
