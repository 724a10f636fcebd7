"""Values of `-e` in a `run`: in the command and nowhere on the host's disk, also when the daemon is killed in the middle of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

VALUE = "a-value-that-is-nowhere-else-5b1f"
WAITS = 'echo ready; while [ ! -e /tmp/never ] && read line; do echo "$line $TOKEN"; [ "$line" = end ] && exit 3; done'
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(home: Path) -> Start:
    def run(*options: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "AGENTKERNEL_DAEMON": "on"}
        words = [sys.executable, "-m", "agentkernel", "run", *options, "-e", f"TOKEN={VALUE}", "--", "sh", "-c", WAITS]
        return subprocess.Popen(words, cwd=home, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    return run


def _holders(home: Path) -> list[str]:
    """The files of the installation, and of its runtime directory, that hold the value."""
    found = []
    for directory in (home / "ak", home):
        for path, _, names in os.walk(directory):
            for name in names:
                file = Path(path, name)
                with suppress(FileNotFoundError):  # of a sandbox that is being removed
                    if file.is_file() and not file.is_symlink() and VALUE.encode() in file.read_bytes():
                        found.append(str(file))
    return found


def _line(running: subprocess.Popen[bytes], wanted: str = "") -> str:
    assert running.stdin is not None and running.stdout is not None
    if wanted:
        running.stdin.write(f"{wanted}\n".encode())
        running.stdin.flush()
    return running.stdout.readline().decode().strip()


def _kill_daemon(home: Path) -> None:
    status = subprocess.run(
        [sys.executable, "-m", "agentkernel", "daemon", "status", "--json"], capture_output=True, check=True, timeout=60
    )
    os.kill(json.loads(status.stdout)["pid"], signal.SIGKILL)


@pytest.mark.parametrize("options", [(), ("--json",), ("--no-daemon",)], ids=["hot", "full", "in-process"])
def test_a_value_is_in_the_command_and_in_no_file(options: tuple[str, ...], start: Start, home: Path) -> None:
    with start(*options) as running:
        if "--json" not in options:
            assert _line(running) == "ready"
            assert _line(running, "here") == f"here {VALUE}"
            assert _holders(home) == []
        out, _ = running.communicate(b"end\n", timeout=60)
    assert f"end {VALUE}" in out.decode()
    assert running.returncode == 3
    assert _holders(home) == []


def test_a_command_goes_on_after_a_kill_of_the_daemon_and_its_value_is_in_no_file(start: Start, home: Path) -> None:
    with start() as running:
        assert _line(running) == "ready"
        _kill_daemon(home)
        assert _holders(home) == []
        assert _line(running, "more") == f"more {VALUE}"
        assert _holders(home) == []
        out, _ = running.communicate(b"end\n", timeout=60)
    assert (out.decode().strip(), running.returncode) == (f"end {VALUE}", 3)
    assert _holders(home) == []
