"""What callers say about sandboxes and commands, and the requests that it becomes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from agentkernel.errors import AgentKernelError, CommandFailed, InvalidInput, UnknownKey
from agentkernel.model.command import Command, ExitStatus, TerminalSize
from agentkernel.model.image import ImageWork, ImageWorkKind, PullPolicy
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.network import EgressChange, EgressLimits, PortRule, Rule, Secret
from agentkernel.model.record import CreateOptions
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Bind, StorageKind
from agentkernel.model.status import Status
from agentkernel.sdk import options
from agentkernel.sdk.options import build_of, change_of, command_of, create_options, port_of, request_of, seconds, statuses_of
from agentkernel.sdk.result import Chunk, Result

ENVIRONMENT = {"PATH": "/usr/bin", "TOKEN": "value", "MY_SETTING": "vi", "AWS_SECRET_ACCESS_KEY": "hidden"}


def test_nothing_said_is_what_the_profile_says_and_nothing_of_the_working_directory() -> None:
    wanted = SandboxRequest(cwd="/", mount_cwd=False, host_environment={"PATH": "/usr/bin"})
    assert request_of({}, {"PATH": "/usr/bin"}) == wanted


def test_configuration_files_and_variables_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agentkernel.toml").write_text('[security]\nprofile = "permissive"\n')
    monkeypatch.chdir(tmp_path)
    assert request_of({}, {"AGENTKERNEL_PROFILE": "permissive"}).profile == "moderate"


def test_every_option_reaches_the_request(tmp_path: Path) -> None:
    given = {
        "profile": "restrictive",
        "backend": "namespaces",
        "min_isolation": "container",
        "image": str(tmp_path),
        "pull": "never",
        "runtime": "kata",
        "gpus": "all",
        "directory": tmp_path,
        "mounts": [f"{tmp_path}:/data:ro"],
        "environment": {"A": "1", "TOKEN": None},
        "network": True,
        "allow_hosts": ["Example.com", "10.0.0.0/8:22"],
        "deny_hosts": ("*.tracker.example",),
        "only_hosts": True,
        "transparent_network": False,
        "max_connections": 7,
        "max_bytes": "1KiB",
        "max_lookups": 9,
        "ports": [80, "8080:81", "127.0.0.1:0:82"],
        "mount_home": False,
        "pass_environment": True,
        "read_only": True,
        "memory": "512MiB",
        "cpus": 1.5,
        "pids": 64,
        "disk": 10**6,
        "storage": "disk",
        "user": "root",
        "secrets": ["API_KEY=ENV:MY_SETTING2@api.example.com/v1#x-api-key"],
    }
    assert given.keys() == options.SandboxOptions.__annotations__.keys()
    assert request_of(given, ENVIRONMENT | {"MY_SETTING2": "the-value"}) == SandboxRequest(
        profile="restrictive",
        backend="namespaces",
        min_isolation=IsolationLevel.CONTAINER,
        image=str(tmp_path),
        pull=PullPolicy.NEVER,
        runtime="kata",
        gpus="all",
        directory=str(tmp_path),
        mounts=(Bind(source=str(tmp_path), target="/data"),),
        environment={"A": "1", "TOKEN": "value"},
        network=True,
        allow_hosts=(Rule(host="example.com"), Rule(host="10.0.0.0/8", ports=(22,))),
        deny_hosts=(Rule(host="*.tracker.example"),),
        only_hosts=True,
        transparent_network=False,
        egress_limits=EgressLimits(connections=7, bytes_total=1024, lookups_per_s=9),
        ports=(PortRule(port=80), PortRule(port=81, host_port=8080), PortRule(port=82)),
        mount_home=False,
        pass_environment=True,
        read_only_root=True,
        memory_bytes=512 * 2**20,
        cpus=1.5,
        pids=64,
        disk_bytes=10**6,
        storage=StorageKind.DISK,
        user="root",
        secrets=(Secret(name="API_KEY", hosts=("api.example.com",), path="/v1", header="x-api-key"),),
        secret_values={"API_KEY": "the-value"},
        host_environment={"PATH": "/usr/bin", "MY_SETTING": "vi"},  # and not what held the value
    )


def test_a_build_is_asked_for_as_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"file": Path("x/Dockerfile"), "target": "t", "arguments": {"A": "1"}, "builder": "podman", "platform": "linux/arm64"}
    assert build_of(".", "app", given | {"backend": "docker", "fresh": True}) == ImageWork(
        kind=ImageWorkKind.BUILD,
        reference="app",
        path=str(tmp_path),
        dockerfile="x/Dockerfile",
        target="t",
        arguments=(("A", "1"),),
        builder="podman",
        platform="linux/arm64",
        backend="docker",
        fresh=True,
    )
    for wrong in ({"taget": "t"}, {"arguments": ["A=1"]}, {"target": 1}, {"fresh": "yes"}):
        with pytest.raises(InvalidInput):
            build_of(tmp_path, "app", wrong)


def test_of_the_callers_environment_goes_along_what_is_passed_on_or_finds_toolchains() -> None:
    environment = ENVIRONMENT | {"PYENV_ROOT": "/p", "CARGO_HOME": "/c"}
    looked_up = {"PATH": "/usr/bin", "PYENV_ROOT": "/p", "CARGO_HOME": "/c"}
    assert request_of({}, environment).host_environment == looked_up
    assert request_of({"profile": "permissive", "pass_environment": False}, environment).host_environment == looked_up
    assert request_of({"profile": "permissive"}, environment).host_environment == looked_up | {"MY_SETTING": "vi"}


def test_paths_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert request_of({"directory": "data"}, {}).directory == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"memory": "much"}, "memory"),
        ({"cpus": "x"}, "cpus"),
        ({"mounts": ["nothing"]}, "mounts"),
        ({"directory": "/no/such"}, "/no/such"),
        ({"allow_hosts": "example.com"}, "allow_hosts"),
        ({"allow_hosts": ["http://x/"]}, "allow_hosts"),
        ({"deny_hosts": [5]}, "deny_hosts"),
        ({"only_hosts": "no"}, "only_hosts"),
        ({"ports": [0]}, "ports"),
        ({"ports": [True]}, "port"),
        ({"ports": ["80/tcp"]}, "port"),
    ],
)
def test_a_wrong_value_names_its_option(given: dict[str, object], place: str) -> None:
    with pytest.raises(InvalidInput, match=place):
        request_of(given, {})


def test_a_change_of_rules_and_a_port_are_read_as_options_are() -> None:
    assert change_of(allow=["A.example:8443"]) == EgressChange(allow=(Rule(host="a.example", ports=(8443,)),))
    assert change_of(deny=("b.example",), forget=["c.example"]) == EgressChange(
        deny=(Rule(host="b.example"),), remove=(Rule(host="c.example"),)
    )
    assert port_of(80, 8080) == port_of("8080:80") == PortRule(port=80, host_port=8080)
    with pytest.raises(InvalidInput, match="allow"):
        change_of(allow=["a b"])
    with pytest.raises(InvalidInput):
        port_of(80, 70000)


def test_an_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(UnknownKey) as caught:
        request_of({"memroy": "1GiB"}, {})
    assert "memory" in caught.value.hint
    with pytest.raises(UnknownKey) as caught:
        command_of(["x"], {"timout": 1}, stdin=False)
    assert "timeout" in caught.value.hint


def test_what_a_lasting_sandbox_has_besides() -> None:
    given = {"name": "a", "labels": {"z": "1", "b": "2"}, "ttl": "1h", "idle": 90, "memory": "1GiB"}
    assert create_options(given) == CreateOptions(name="a", labels=(("b", "2"), ("z", "1")), ttl_s=3600.0, idle_s=90.0, start=True)
    assert create_options({"start": False}) == CreateOptions()
    assert set(given) | {"start"} | set(options.SandboxOptions.__annotations__) == set(options.LastingOptions.__annotations__)


def test_every_option_reaches_the_command() -> None:
    given = {
        "environment": {"A": "é"},
        "cwd": Path("/tmp"),
        "user": (0, 0),
        "timeout": "1m30s",
        "tty": (50, 132),
        "output_limit_bytes": 7,
    }
    assert given.keys() == options.CommandOptions.__annotations__.keys()
    assert command_of(["cmd", b"\xff", Path("/x")], given, stdin=True, detached=True) == Command(
        argv=(b"cmd", b"\xff", b"/x"),
        environment={b"A": "é".encode()},
        cwd="/tmp",
        user=(0, 0),
        timeout_s=90.0,
        terminal=TerminalSize(rows=50, columns=132),
        stdin=True,
        detached=True,
        output_limit_bytes=7,
    )
    assert command_of(["x"], {"tty": True}, stdin=False).terminal == TerminalSize(rows=24, columns=80)


@pytest.mark.parametrize(
    "given", [{"user": "root"}, {"tty": "yes"}, {"cwd": 3}, {"output_limit_bytes": -1}, {"environment": {"A=B": ""}}, {"timeout": "soon"}]
)
def test_a_wrong_value_of_a_command_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        command_of(["x"], given, stdin=False)


def test_a_command_has_a_word() -> None:
    with pytest.raises(InvalidInput, match="no command"):
        command_of([], {}, stdin=False)


def test_durations_are_seconds_or_text_and_zero_is_none() -> None:
    assert [seconds("ttl", value) for value in (None, 0, "0", 1.5, "250ms", "1d")] == [None, None, None, 1.5, 0.25, 86400.0]


def test_statuses_are_words() -> None:
    assert statuses_of(["running", Status.STOPPED]) == (Status.RUNNING, Status.STOPPED)
    with pytest.raises(UnknownKey):
        statuses_of(["asleep"])


def _result(code: int, *, signal: int | None = None, stderr: bytes = b"") -> Result:
    return Result(argv=(b"my prog",), status=ExitStatus(exit_code=code, signal=signal), stdout=b"\xffa", stderr=stderr)


def test_a_result_that_is_checked_is_itself_or_an_error_with_it() -> None:
    fine = _result(0)
    assert fine.check() is fine and fine.ok and fine.text == "�a"
    for result, told in itertools.chain(
        [(_result(3), "'my prog' exited with 3"), (_result(137, signal=9), "'my prog' was ended by signal 9")],
        [(_result(1, stderr=b"first\nlast \x1b[31m\n"), "'my prog' exited with 1: last ?[31m")],
    ):
        with pytest.raises(CommandFailed) as caught:
            result.check()
        assert (caught.value.message, caught.value.result) == (told, result)
        assert isinstance(caught.value, AgentKernelError)


def test_a_chunk_is_text_where_it_can_be() -> None:
    assert Chunk(stream=1, data=b"a\xc3").text == "a�"


def test_labels_that_are_none_are_refused_and_not_passed_over() -> None:
    for wrong in ({"labels": [("a", "b")]}, {"labels": "a=b"}, {"start": "no"}):
        with pytest.raises(InvalidInput):
            create_options(wrong)
    assert create_options({"labels": {"b": "2", "a": "1"}, "start": False}).labels == (("a", "1"), ("b", "2"))
