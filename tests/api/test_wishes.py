"""What a body asks for: with the operator's settings underneath, and nothing of the host that it does not name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentkernel.abc import Caller
from agentkernel.api.shapes import (
    OUTPUT_BYTES,
    BatchBody,
    CreateBody,
    DetachBody,
    ExecBody,
    ExtendBody,
    FilesBody,
    RunBody,
    SandboxBody,
    SocketBody,
)
from agentkernel.api.wishes import batch_of, create_of, detached_of, exec_of, opened_of, request_key_of, run_of, sandbox_of
from agentkernel.errors import InvalidInput, Refused, UnknownKey
from agentkernel.model.command import Command, TerminalSize
from agentkernel.model.image import PullPolicy
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.network import PortRule, Rule, Secret
from agentkernel.model.record import CreateOptions
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Bind, StorageKind

HERE = Caller(principal="ann")
ELSEWHERE = Caller(principal="ann", remote=True)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "PATH": "/usr/bin", "API_KEY": "the-operators-own", "XDG_CONFIG_HOME": str(tmp_path / "config")}


def _configure(environment: dict[str, str], text: str) -> None:
    directory = Path(environment["XDG_CONFIG_HOME"]) / "agentkernel"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(text)


def asked(environment: dict[str, str], caller: Caller = HERE, **body: Any) -> SandboxRequest:
    return sandbox_of(SandboxBody.model_validate(body), environment, caller)


def test_nothing_said_is_what_the_profile_says_and_nothing_of_the_host(environment: dict[str, str]) -> None:
    assert asked(environment) == SandboxRequest(
        mount_cwd=False,
        mount_home=False,
        pass_environment=False,
        host_environment={"PATH": "/usr/bin", "HOME": environment["HOME"]},
    )


def test_every_field_reaches_the_request(environment: dict[str, str], tmp_path: Path) -> None:
    body = {
        "image": "python:3.13",
        "pull": "never",
        "profile": "restrictive",
        "backend": "docker",
        "min_isolation": "container",
        "runtime": "kata",
        "gpus": "all",
        "vcpus": 1.5,
        "memory_mb": 512,
        "disk_mb": 64,
        "pids": 64,
        "storage": "disk",
        "user": "root",
        "read_only": True,
        "network": True,
        "allow_hosts": ["Example.com", "10.0.0.0/8:22"],
        "deny_hosts": ["*.tracker.example"],
        "only_hosts": True,
        "transparent_network": False,
        "ports": [80, "8080:81"],
        "env": ["A=1", "B="],
        "secrets": [{"name": "KEY", "value": "a-long-value", "hosts": ["api.example.com"], "path": "/v1", "header": "X-Api-Key"}],
        "directory": str(tmp_path),
        "mounts": [f"{tmp_path}:/data:ro"],
    }
    assert body.keys() == SandboxBody.model_fields.keys()
    assert asked(environment, **body) == SandboxRequest(
        image="python:3.13",
        pull=PullPolicy.NEVER,
        profile="restrictive",
        backend="docker",
        min_isolation=IsolationLevel.CONTAINER,
        runtime="kata",
        gpus="all",
        cpus=1.5,
        memory_bytes=512 * 2**20,
        disk_bytes=64 * 2**20,
        pids=64,
        storage=StorageKind.DISK,
        user="root",
        read_only_root=True,
        network=True,
        allow_hosts=(Rule(host="example.com"), Rule(host="10.0.0.0/8", ports=(22,))),
        deny_hosts=(Rule(host="*.tracker.example"),),
        only_hosts=True,
        transparent_network=False,
        ports=(PortRule(port=80), PortRule(port=81, host_port=8080)),
        environment={"A": "1", "B": ""},
        secrets=(Secret(name="KEY", hosts=("api.example.com",), path="/v1", header="x-api-key"),),
        secret_values={"KEY": "a-long-value"},
        directory=str(tmp_path),
        mounts=(Bind(source=str(tmp_path), target="/data"),),
        mount_home=False,
        pass_environment=False,
        host_environment={"PATH": "/usr/bin", "HOME": environment["HOME"]},
    )


def test_the_operators_settings_hold_where_the_body_says_nothing(environment: dict[str, str]) -> None:
    _configure(
        environment, '[security]\nprofile = "restrictive"\n[security.domains]\nblock = ["a.example"]\n[resources]\nmemory = "64MiB"\n'
    )
    found = asked(environment | {"AGENTKERNEL_BACKEND": "namespaces"}, deny_hosts=["b.example"])
    assert (found.profile, found.memory_bytes, found.backend) == ("restrictive", 64 * 2**20, "namespaces")
    assert found.deny_hosts == (Rule(host="a.example"), Rule(host="b.example"))
    assert asked(environment, memory_mb=128).memory_bytes == 128 * 2**20


def test_what_the_operator_adds_is_told_from_what_the_body_asks_for(environment: dict[str, str]) -> None:
    """So that a caller elsewhere gets the operator's networks and image, and may ask for none of this host's."""
    _configure(environment, '[security.domains]\nallow = ["10.1.0.0/16:22", "example.com"]\n[sandbox]\nbase_image = "/srv/root.tar"\n')
    theirs = (Rule(host="10.1.0.0/16", ports=(22,)), Rule(host="example.com"))
    plain = asked(environment, ELSEWHERE)
    assert (plain.allow_hosts, plain.added_hosts) == (theirs, theirs)
    assert (plain.image, plain.added_image) == ("/srv/root.tar", "/srv/root.tar")
    more = asked(environment, ELSEWHERE, allow_hosts=["10.2.0.0/16"], image="alpine")
    assert (more.allow_hosts, more.added_hosts) == ((*theirs, Rule(host="10.2.0.0/16")), theirs)
    assert more.image == "alpine"


def test_the_operators_timeout_holds_where_a_run_has_none(environment: dict[str, str]) -> None:
    environment |= {"AGENTKERNEL_TIMEOUT": "5m"}
    for said, timeout_s in (({}, 300.0), ({"timeout_s": 2}, 2.0), ({"timeout_s": 0}, None)):
        assert run_of(RunBody.model_validate({"command": ["x"], **said}), environment, HERE)[1].timeout_s == timeout_s
        batch = BatchBody.model_validate({"commands": [{"command": ["x"]}], **said})
        assert batch_of(batch, environment, HERE, 1)[1][0].timeout_s == timeout_s


def test_what_the_operators_own_runs_are_shown_and_given_is_nobody_elses(environment: dict[str, str], tmp_path: Path) -> None:
    _configure(
        environment,
        f'dir = "{tmp_path}"\nmounts = ["{tmp_path}:/data"]\nenvironment = {{ LOGIN = "mine" }}\n'
        "[security]\nmount_home = true\nmount_cwd = true\npass_env = true\n"
        '[[secrets]]\nname = "API_KEY"\nhosts = ["api.example.com"]\n[network]\nports = ["8080:80"]\n',
    )
    assert asked(environment) == asked({**environment, "XDG_CONFIG_HOME": "/nonexistent"})


@pytest.mark.parametrize(
    "body",
    [{"directory": "/etc"}, {"mounts": ["/etc:/data:ro"]}, {"image": "/srv/image"}, {"image": "rootfs.tar"}, {"directory": "/no/such"}],
)
def test_a_caller_elsewhere_learns_nothing_of_the_host(environment: dict[str, str], body: dict[str, Any]) -> None:
    """The same answer whether it is there or not."""
    with pytest.raises(Refused):
        asked(environment, ELSEWHERE, **body)


def test_a_caller_elsewhere_with_the_scope_may_name_its_files(environment: dict[str, str], tmp_path: Path) -> None:
    trusted = Caller(principal="ann", remote=True, scopes=frozenset({"full", "host"}))
    assert asked(environment, trusted, directory=str(tmp_path)).directory == str(tmp_path)
    for wrong in ({"directory": "relative"}, {"mounts": ["relative:/x"]}, {"directory": "/no/such"}):
        with pytest.raises(InvalidInput):
            asked(environment, trusted, **wrong)


def test_a_relative_name_of_an_image_is_never_a_file(environment: dict[str, str]) -> None:
    assert asked(environment, ELSEWHERE, image="etc").image == "etc"


def test_a_run_is_a_sandbox_a_command_and_its_input(environment: dict[str, str]) -> None:
    body = RunBody.model_validate({"command": ["a", "b"], "env": {"A": "é"}, "workdir": "/x", "timeout_s": 2, "stdin": "in", "fast": False})
    request, command, data = run_of(body, environment, HERE)
    assert (request.argv, request.environment, data) == ((b"a", b"b"), {}, b"in")
    surroundings: dict[str, Any] = {"environment": {b"A": "é".encode()}, "cwd": "/x", "timeout_s": 2.0, "stdin": True}
    assert command == Command(argv=(b"a", b"b"), output_limit_bytes=OUTPUT_BYTES, **surroundings)


def test_commands_of_every_kind() -> None:
    assert exec_of(ExecBody(command=["x"], sudo=True))[0] == Command(argv=(b"x",), user=(0, 0), output_limit_bytes=OUTPUT_BYTES)
    assert exec_of(ExecBody(command=["\udcff"], user="5:6", output_limit_bytes=1))[0] == Command(
        argv=(b"\xff",), user=(5, 6), output_limit_bytes=1
    )
    assert detached_of(DetachBody(command=["x"], user="user")) == Command(argv=(b"x",), detached=True)
    assert opened_of(SocketBody(command=["x"], rows=5, columns=6)) == Command(
        argv=(b"x",), terminal=TerminalSize(rows=5, columns=6), stdin=True
    )
    with pytest.raises(InvalidInput):
        SocketBody(command=["x"], rows=5)


def test_each_command_of_a_batch_has_the_same_time(environment: dict[str, str]) -> None:
    body = BatchBody.model_validate({"commands": [{"command": ["a"]}, {"command": ["b"]}], "timeout_s": 3})
    _, commands = batch_of(body, environment, HERE, 7)
    assert commands == tuple(Command(argv=(word,), timeout_s=3.0, output_limit_bytes=7) for word in (b"a", b"b"))


def test_what_a_lasting_sandbox_has_besides(environment: dict[str, str]) -> None:
    body = CreateBody(name="box", labels={"b": "2", "a": "1"}, ttl_s=60, idle_s=0, start=False)
    _, options = create_of(body, environment, HERE, "key")
    assert options == CreateOptions(name="box", labels=(("a", "1"), ("b", "2")), ttl_s=60.0, request_key="key")


def test_a_creation_is_remembered_by_who_asked_for_what() -> None:
    keys = {
        request_key_of(caller, key, body)
        for caller in (HERE, Caller(principal="ann", via="token"), Caller(principal="bob"))
        for key in ("a", "b")
        for body in (b"{}", b'{"name":"x"}')
    }
    assert len(keys) == 12
    assert request_key_of(HERE, "", b"{}") == ""


def test_a_body_knows_its_fields_also_deep_inside() -> None:
    with pytest.raises(UnknownKey) as caught:
        FilesBody.model_validate({"files": {"/a": {"content": "", "mod": "600"}}})
    assert caught.value.hint == "did you mean 'mode'?"
    assert ExtendBody.model_validate({"by": None}).by is None
