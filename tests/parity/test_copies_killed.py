"""`kill -9` of the daemon at every step of a copy with a stopped sandbox: the copy goes on with the next daemon, and it is stopped again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentkernel
from agentkernel.config.daemon_process import spawn
from agentkernel.failpoints import ENVIRONMENT_NAME

SOURCES = Path(agentkernel.__file__).parent
OF_VISITS = sorted(
    {step for path in SOURCES.rglob("*.py") for step in re.findall(r'failpoint\("((?:daemon|engine)\.visit\.[a-z.]+)"\)', path.read_text())}
)
ON_THE_WAY = ("engine.start.stored", "engine.start.booted", "engine.start.running", "engine.stop.stored", "engine.stop.stopped")
CONTENT = b"0123456789abcdef" * 100_000


def _agentkernel(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "agentkernel", *words], capture_output=True, timeout=120, check=False)


def _daemon() -> int:
    return int(json.loads(_agentkernel("daemon", "status", "--json").stdout)["pid"])


def _status() -> str:
    return str(json.loads(_agentkernel("info", "--json", "box").stdout)["status"])


@pytest.fixture
def armed(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A stopped sandbox `box` with a file, and no daemon; a file `new` here."""
    (tmp_path / "new").write_bytes(CONTENT)
    (tmp_path / "old").write_bytes(b"old")
    assert _agentkernel("create", "-q", "box").returncode == 0
    done = _agentkernel("cp", str(tmp_path / "old"), "box:/home/user/file")
    assert done.returncode == 0, done.stderr
    assert _agentkernel("daemon", "stop").returncode == 0
    yield tmp_path
    assert _agentkernel("remove", "--force", "box").returncode == 0


def test_the_steps_are_known() -> None:
    assert len(OF_VISITS) >= 5


@pytest.mark.parametrize("step", [*OF_VISITS, *ON_THE_WAY])
def test_a_copy_survives_the_daemon_at_every_step(armed: Path, step: str) -> None:
    spawn({**os.environ, ENVIRONMENT_NAME: f"{step}@1=kill"})
    killed = _daemon()
    into = _agentkernel("cp", str(armed / "new"), "box:/home/user/file")
    assert into.returncode == 0, into.stderr
    assert not Path(f"/proc/{killed}").exists() or _daemon() != killed
    assert _status() == "stopped"
    out = _agentkernel("cp", "box:/home/user/file", str(armed / "back"))
    assert (out.returncode, (armed / "back").read_bytes() == CONTENT) == (0, True), out.stderr
    assert _status() == "stopped"


@pytest.mark.parametrize("step", OF_VISITS)
def test_a_step_that_fails_is_told_and_it_is_stopped(armed: Path, step: str) -> None:
    spawn({**os.environ, ENVIRONMENT_NAME: f"{step}@1=error:EIO"})
    into = _agentkernel("cp", str(armed / "new"), "box:/home/user/file")
    assert into.returncode in (0, 125), into.stderr
    out = _agentkernel("cp", "box:/home/user/file", str(armed / "back"))
    assert out.returncode == 0, out.stderr
    assert (armed / "back").read_bytes() in ((CONTENT,) if into.returncode == 0 else (CONTENT, b"old"))
    assert _status() == "stopped"


def test_a_copy_and_its_daemon_are_killed_together(armed: Path) -> None:
    command = [sys.executable, "-m", "agentkernel", "cp", str(armed / "new"), "box:/home/user/file"]
    copy = subprocess.Popen(command, env={**os.environ, ENVIRONMENT_NAME: "client.copy.piece@1=stop"}, stderr=subprocess.DEVNULL)
    assert os.WIFSTOPPED(os.waitpid(copy.pid, os.WUNTRACED)[1])
    os.kill(_daemon(), signal.SIGKILL)
    copy.kill()
    copy.wait(60)
    out = _agentkernel("cp", "box:/home/user/file", str(armed / "back"))  # its visit is the last one
    assert (out.returncode, (armed / "back").read_bytes()) == (0, b"old"), out.stderr
    assert _status() == "stopped"
