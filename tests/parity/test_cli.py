"""The command line and the SDK say the same of the same daemon: results, errors with their exit status, descriptions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from agentkernel import AgentKernelError, Client, Sandbox

COMMANDS = (
    ("sh", "-c", "printf 'out\\377'; echo err >&2; exit 7"),
    ("sh", "-c", "kill -9 $$"),
    ("cat",),
    ("sh", "-c", "id -u; pwd; echo $HOME $PATH"),
)
Failing = tuple[tuple[str, ...], Callable[[Client, Sandbox], object]]
ERRORS: tuple[Failing, ...] = (
    (("exec", "box", "no-such-program"), lambda client, box: box.exec("no-such-program")),
    (("exec", "box", "/etc/passwd"), lambda client, box: box.exec("/etc/passwd")),
    (("exec", "-w", "/none", "box", "true"), lambda client, box: box.exec("true", cwd="/none")),
    (("exec", "none", "true"), lambda client, box: client.get("none").exec("true")),
    (("create", "box"), lambda client, box: client.create(name="box", start=False)),
    (("create", "--mount", "/:/host", "new"), lambda client, box: client.create(name="new", mounts=["/:/host"], start=False)),
    (("create", "--min-isolation", "vm", "new"), lambda client, box: client.create(name="new", min_isolation="vm", start=False)),
    (("create", "--image", "/none", "new"), lambda client, box: client.create(name="new", image="/none", start=False)),
    (("remove", "box"), lambda client, box: box.remove()),
    (("rename", "box", "other"), lambda client, box: box.rename("other")),
    (("info", "none"), lambda client, box: client.get("none")),
    (("network", "show", "none"), lambda client, box: client.get("none")),
    (("ports", "other", "80"), lambda client, box: client.get("other").publish(80)),
    (("remove", "none"), lambda client, box: client.remove("none")),
)


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with Client() as client:
        yield client


@pytest.fixture(scope="module")
def box(client: Client) -> Iterator[Sandbox]:
    box, other = client.create(name="box", labels={"a": "1"}), client.create(name="other", start=False)
    yield box
    box.remove(force=True)
    other.remove(force=True)


def _run(home: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "AGENTKERNEL_DAEMON": "on"}
    return subprocess.run([sys.executable, "-m", "agentkernel", *words], cwd=home, env=environment, capture_output=True, timeout=60)


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: argv[-1])
def test_a_command(argv: tuple[str, ...], home: Path, box: Sandbox) -> None:
    typed, called = _run(home, "exec", "box", "--", *argv), box.exec(*argv)
    assert (typed.stdout, typed.stderr, typed.returncode) == (called.stdout, called.stderr, called.exit_code)


@pytest.mark.parametrize("failing", ERRORS, ids=lambda failing: " ".join(failing[0]))
def test_an_error(failing: Failing, home: Path, client: Client, box: Sandbox) -> None:
    words, call = failing
    with pytest.raises(AgentKernelError) as caught:
        call(client, box)
    error = caught.value
    typed = _run(home, *words)
    said = f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else "")
    assert (typed.stderr.decode(), typed.returncode) == (said, error.exit_status)


def test_descriptions(home: Path, client: Client, box: Sandbox) -> None:
    shown = json.loads(_run(home, "info", "box", "--json").stdout)
    rules = {"default": "public", "allow": [], "deny": [], "private": []}
    info = asdict(box.info()) | {"labels": {"a": "1"}, "isolation": "container", "id": box.id, "ports": [], "rules": rules}
    assert {name: value for name, value in shown.items() if name != "used_at"} == {name: info[name] for name in shown if name != "used_at"}
    listed = json.loads(_run(home, "list", "--all", "--json").stdout)
    assert {entry["id"] for entry in listed} == {found.id for found in client.list()}


def test_rules_and_ports(home: Path, box: Sandbox) -> None:
    shown = json.loads(_run(home, "network", "allow", "box", "Example.com", "b.example:8443", "--json").stdout)
    rules = box.network()
    assert shown == {"default": rules.base, "allow": [str(rule) for rule in rules.allow], "deny": [], "private": []}
    assert shown["allow"] == ["example.com", "b.example:8443"]
    address = _run(home, "ports", "box", "8000").stdout.decode().strip()
    (port,) = box.ports()
    assert address == f"{port.host_address}:{port.host_port}"
    assert json.loads(_run(home, "ports", "box", "--json").stdout) == [asdict(port)]
    assert json.loads(_run(home, "info", "box", "--json").stdout)["ports"] == [asdict(port)]
    box.unpublish(8000)
    assert json.loads(_run(home, "ports", "box", "--json").stdout) == []
    box.forget("example.com", "b.example:8443")
    assert json.loads(_run(home, "network", "show", "box", "--json").stdout)["allow"] == []


def test_what_was_typed_and_what_was_called_are_in_one_trail(home: Path, client: Client, box: Sandbox) -> None:
    _run(home, "exec", "box", "true")
    box.exec("true")
    typed, called = list(client.events(sandbox=box.id, kinds=["exec.ended"]))[-2:]
    assert [name for name, _ in typed.details] == [name for name, _ in called.details]
    assert (typed.principal, typed.outcome) == (called.principal, called.outcome)
