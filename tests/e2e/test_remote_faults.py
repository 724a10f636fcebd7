"""Verbs over a way that is cut, before a server, a daemon or a token that goes in the middle: what is under way is done once, and whole."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from e2e.conftest import DEADLINE_S, AgentKernel
from remote_world import Wire, serving, wired

SCRIPT = "echo one; until [ -e /tmp/go ]; do sleep 0.05; done; echo two; exit 5"


def _text(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@contextmanager
def _running(agentkernel: AgentKernel, *words: str, **streams: int) -> Iterator[subprocess.Popen[bytes]]:
    """A verb under way, which has printed its first line."""
    running = agentkernel.start(*words, **streams)
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == b"one\n"
        yield running
    finally:
        running.kill()
        running.communicate(timeout=DEADLINE_S)


def _ends_well(running: subprocess.Popen[bytes], given: bytes | None = None) -> None:
    out, err = running.communicate(given, timeout=DEADLINE_S)
    assert (out, running.returncode) == (b"two\n", 5), err.decode()


@pytest.fixture
def box(behind_daemon: AgentKernel) -> str:
    """A sandbox that runs there."""
    return _text(behind_daemon("create", "-q", "box", "--start"))


def test_what_is_copied_or_followed_over_a_way_that_is_cut_is_whole(
    remote: AgentKernel, behind_daemon: AgentKernel, box: str, wire: Wire
) -> None:
    data = os.urandom(3_000_000)
    (remote.directory / "there").write_bytes(data)
    before, wire.cut_each_bytes = wire.crossings, 1_000_000
    _text(remote("cp", "there", f"{box}:/tmp/data"))
    _text(remote("cp", f"{box}:/tmp/data", "back"))
    wire.cut_each_bytes = 0
    assert wire.crossings - before > 4
    assert (remote.directory / "back").read_bytes() == data
    exec_id = _text(behind_daemon("exec", "-d", box, "sh", "-c", SCRIPT))
    with (
        _running(remote, "logs", "--follow", box, "--exec", exec_id) as reading,
        _running(remote, "attach", box, exec_id) as attached,
    ):
        wire.cut()
        _text(behind_daemon("exec", box, "touch", "/tmp/go"))
        assert reading.stdout is not None
        assert reading.stdout.readline() == b"two\n"
        _ends_well(attached)


def test_commands_go_on_after_the_daemon_and_then_the_server_before_it_were_killed(
    remote: AgentKernel, behind_daemon: AgentKernel, box: str, daemon_environment: dict[str, str]
) -> None:
    script = ("sh", "-c", "echo one; read x; echo $x; read x; echo two; exit 5")
    with serving(daemon_environment) as again, wired(lambda: again.port) as wire:
        remote.environment["AGENTKERNEL_HOST"] = wire.url
        with (
            _running(remote, "exec", box, *script, stdin=subprocess.PIPE) as lasting,
            _running(remote, "run", "-q", "--", *script, stdin=subprocess.PIPE) as passing,
        ):
            behind_daemon.kill_daemon()
            for running in (lasting, passing):
                assert running.stdin is not None and running.stdout is not None
                running.stdin.write(b"between\n")
                running.stdin.flush()
                assert running.stdout.readline() == b"between\n"
            again.kill()
            again.start()
            for running in (lasting, passing):
                _ends_well(running, b"go\n")


def test_a_token_that_is_taken_away_ends_what_is_under_way(remote: AgentKernel, behind_daemon: AgentKernel, box: str) -> None:
    said = _text(behind_daemon("token", "create", "short")).split()
    remote.environment["AGENTKERNEL_TOKEN"] = next(word for word in said if word.startswith("ak_"))
    with _running(remote, "exec", box, "sh", "-c", "echo one; exec sleep 1000") as running:
        _text(behind_daemon("token", "remove", "short"))
        out, err = running.communicate(timeout=DEADLINE_S)
        assert (out, running.returncode) == (b"", 125)
        error, hint = err.decode().splitlines()
        assert "does not take this token" in error and hint.startswith("hint: ")


def test_a_verb_whose_server_is_away_can_be_interrupted(remote: AgentKernel, box: str, daemon_environment: dict[str, str]) -> None:
    with serving(daemon_environment) as gone:
        remote.environment["AGENTKERNEL_HOST"] = gone.url
        with _running(remote, "exec", box, "sh", "-c", SCRIPT) as running:
            gone.kill()
            deadline = time.monotonic() + DEADLINE_S
            while running.poll() is None and time.monotonic() < deadline:
                running.send_signal(signal.SIGINT)
                time.sleep(0.1)
            assert running.returncode == 128 + signal.SIGINT
