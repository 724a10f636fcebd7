"""`run` and its network: the ports that it publishes, and what it says when something was refused; through the daemon and in process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from parity.network_scenarios import LISTENER, THROUGH_PROXY

ONLY = ("--only-hosts", "--allow-host", "a.example")
REFUSED = THROUGH_PROXY + "\nsys.exit(3)\n"
WAYS = [(), ("--no-daemon",), ("--daemon", "--json")]
BEHIND_OR_NOT = pytest.mark.parametrize("options", WAYS, ids=["hot", "in-process", "full"])


def _start(home: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "AGENTKERNEL_DAEMON": "on"}
    argv = [sys.executable, "-m", "agentkernel", "run", *words]
    return subprocess.Popen(argv, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@BEHIND_OR_NOT
def test_a_failed_command_is_told_what_was_refused(options: tuple[str, ...], home: Path) -> None:
    with _start(home, *options, *ONLY, "--", "python3", "-c", REFUSED, "example.com:5432") as running:
        out, err = running.communicate(timeout=60)
    assert running.returncode == 3
    said = err.splitlines()[-2:]
    assert said[0] == "note: an attempt to reach the network was refused, to example.com:5432 (rule: none)"
    assert re.fullmatch(r"hint: --allow-host example\.com:5432 allows it; `agentkernel network log run-[0-9a-f]+` tells all", said[1])
    if "--json" in options:
        (denied,) = json.loads(out)["denied"]
        assert (denied["host"], denied["port"], denied["verdict"], denied["rule"]) == ("example.com", 5432, "denied", "none")
    else:
        assert out.split() == ["403"]
        log = _log(home, said[1].split("`")[1].split()[1:])
        assert [(line["host"], line["verdict"]) for line in log] == [("example.com", "denied")]


@BEHIND_OR_NOT
def test_nothing_is_said_when_nobody_wants_to_hear_it_or_nothing_failed(options: tuple[str, ...], home: Path) -> None:
    for words in (("--quiet", *ONLY, "--", "python3", "-c", REFUSED), (*ONLY, "--", "python3", "-c", THROUGH_PROXY)):
        with _start(home, *options, *words, "example.com:443") as running:
            assert "refused" not in running.communicate(timeout=60)[1]


@pytest.mark.parametrize("options", WAYS[:2], ids=["hot", "in-process"])
def test_a_published_port_is_told_and_answers(options: tuple[str, ...], home: Path) -> None:
    with _start(home, *options, "--no-network", "-p", "8000", "--", "python3", "-c", LISTENER) as running:
        assert running.stdout is not None and running.stderr is not None
        told = re.fullmatch(r"note: port 8000 of the sandbox is at 127\.0\.0\.1:([0-9]+)\n", _note(running))
        assert told is not None
        assert running.stdout.readline() == "ready\n"
        with socket.create_connection(("127.0.0.1", int(told[1])), timeout=30) as connection:
            connection.sendall(b"text")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b"TEXT"
        running.terminate()
        running.communicate(timeout=60)
    with _start(home, *options, "-p", f"{told[1]}:8000", "--", "true") as again:  # at once: the port is free
        assert again.communicate(timeout=60)[1].endswith(told[0])
    assert again.returncode == 0


def _note(running: subprocess.Popen[str]) -> str:
    """The line about the port; notes about this host may be said before."""
    assert running.stderr is not None
    for line in running.stderr:
        if "port 8000" in line:
            return line
    return ""


def _log(home: Path, words: list[str]) -> list[dict[str, object]]:
    argv = [sys.executable, "-m", "agentkernel", *words, "--json"]
    done = subprocess.run(
        argv, cwd=home, env={**os.environ, "AGENTKERNEL_DAEMON": "on"}, capture_output=True, timeout=60, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
