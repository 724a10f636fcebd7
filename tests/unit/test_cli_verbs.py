"""doctor, backends, setup and completions on the scripted kernel."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest
from unit.scripted_kernel import FINGERPRINTS, ScriptedKernel

from agentkernel import assembly
from agentkernel.cli import host
from agentkernel.cli.main import main
from agentkernel.errors import BackendUnavailable
from agentkernel.model.isolation import Feature, IsolationLevel, Runtime

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> ScriptedKernel:
    found = ScriptedKernel()
    monkeypatch.setattr(assembly, "build_engine", lambda environment: found)
    return found


@pytest.fixture
def call(kernel: ScriptedKernel, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: str) -> tuple[int, str]:
        status = main(list(arguments))
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def nothing_ready(kernel: ScriptedKernel) -> None:
    kernel.fingerprints_found = [replace(one, ready=False, reason="no namespaces", remedy="sysctl -w a=1") for one in FINGERPRINTS]


def test_doctor_shows_every_feature_with_its_reason_and_remedy(call: Call) -> None:
    status, out = call("doctor")
    assert status == 0
    assert all(feature.value in out for feature in Feature)
    assert "memory-limit             emulated  sampled" in out
    assert "to do: delegate a cgroup" in out
    assert "Backend docker: not ready" in out
    assert "to do: start dockerd" in out
    assert out.endswith("Ready: agentkernel run works here, with namespaces.\n")


@pytest.mark.usefixtures("nothing_ready")
def test_doctor_fails_when_no_backend_is_ready(call: Call) -> None:
    status, out = call("doctor")
    assert (status, out.splitlines()[-1]) == (1, "Not ready: no backend can run here; see `to do` above.")


def test_doctor_as_json_has_the_same_facts(call: Call) -> None:
    status, out = call("doctor", "--json")
    record = json.loads(out)
    assert (status, record["ready"]) == (0, True)
    assert record["backends"][0]["features"]["memory-limit"] == {"support": "emulated", "reason": "sampled", "remedy": "delegate a cgroup"}
    assert {"system", "cgroups", "user namespaces", "landlock", "kvm", "guest binary"} <= record["host"].keys()


def test_backends_are_an_aligned_table(call: Call) -> None:
    status, out = call("backends")
    assert status == 0
    assert out.splitlines() == [
        "NAME        READY  ISOLATION  REASON",
        "namespaces  yes    container",
        "docker      no     -          no docker socket",
    ]


def test_backends_as_json(call: Call) -> None:
    found = json.loads(call("backends", "--json")[1])
    expected = {"name": "docker", "ready": False, "isolation": "container", "reason": "no docker socket", "remedy": "start dockerd"}
    assert found[1] == {**expected, "runtimes": []}


def test_what_runtime_may_name_is_told_with_how_much_it_isolates(kernel: ScriptedKernel, call: Call) -> None:
    runtimes = (Runtime(name="runc", level=IsolationLevel.CONTAINER), Runtime(name="kata", level=IsolationLevel.VM))
    kernel.fingerprints_found = [replace(FINGERPRINTS[0], runtimes=runtimes)]
    assert "  runtimes: runc (container), kata (vm)\n" in call("doctor")[1]
    for (record,) in (json.loads(call("backends", "--json")[1]), json.loads(call("doctor", "--json")[1])["backends"]):
        assert record["runtimes"] == [
            {"name": "runc", "isolation": "container", "features": {}},
            {"name": "kata", "isolation": "vm", "features": {}},
        ]


def test_setup_says_that_there_is_nothing_to_install(call: Call) -> None:
    status, out = call("setup")
    assert (status, out.splitlines()) == (
        0,
        [
            "There is nothing to install: namespaces works here. Try: agentkernel run -- echo hello",
            "Stronger isolation, without hardware for it: agentkernel setup gvisor",
        ],
    )


def test_setup_of_a_gvisor_that_is_here_says_that_it_is(call: Call, kernel: ScriptedKernel) -> None:
    kernel.fingerprints_found = [replace(FINGERPRINTS[0], backend="gvisor")]
    assert call("setup", "gvisor") == (0, "gVisor is installed, and works here: agentkernel run --backend gvisor -- dmesg\n")
    assert "gvisor works here" in call("setup")[1] and "Stronger" not in call("setup")[1]


@pytest.mark.usefixtures("nothing_ready")
def test_setup_names_the_command_that_helps(call: Call) -> None:
    status, out = call("setup")
    assert status == 1
    assert "  sysctl -w a=1\n" in out


def test_setup_check_lists_what_is_there_and_what_is_missing(call: Call) -> None:
    status, out = call("setup", "--check")
    assert status == 0
    assert out.startswith("PART ")
    assert any(line.split()[:3] == ["backend", "docker", "missing"] for line in out.splitlines())


def test_setup_check_as_json(call: Call) -> None:
    record = json.loads(call("setup", "--check", "--json")[1])
    assert record["ready"] is True
    assert {"name": "backend docker", "state": "no docker socket", "ok": False, "install": "start dockerd"} in record["parts"]


def test_a_missing_guest_binary_names_the_whole_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise BackendUnavailable("the guest binary is missing")

    monkeypatch.delenv("AGENTKERNEL_GUEST", raising=False)
    monkeypatch.setattr(assembly, "guest_path", missing)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    fact = host.guest_binary()
    assert not fact.good
    assert fact.remedy.startswith("apt-get install gcc")
    assert "--no-binary agentkernel" in fact.remedy


def test_an_unknown_shell_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completions", "tcsh"]) == 2
    assert "tcsh" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_name_every_verb_and_the_values_of_profile(shell: str, call: Call) -> None:
    status, out = call("completions", shell)
    assert status == 0
    assert all(verb in out for verb in ("run", "doctor", "backends", "setup", "completions"))
    assert "permissive moderate restrictive" in out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=out, text=True, check=True)
