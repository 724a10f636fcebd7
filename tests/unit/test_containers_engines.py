"""Where engines are, which runtimes isolate how much, and what Podman is asked for."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from unit.test_containers_api import Server, Writer, answer, serving

from agentkernel.backends.containers.build import stream_of
from agentkernel.backends.containers.contexts import docker_endpoint, podman_endpoint
from agentkernel.backends.containers.dialect import EngineBind, EngineFacts
from agentkernel.backends.containers.docker import DockerDialect
from agentkernel.backends.containers.endpoint import Transport, parse_endpoint
from agentkernel.backends.containers.fingerprint import ready
from agentkernel.backends.containers.plan import Naming, Stream, plan_of
from agentkernel.backends.containers.podman import PodmanImageCalls
from agentkernel.backends.containers.podman_plan import IdMap, Way, caller_as, cdi_names, specification
from agentkernel.backends.containers.runtimes import default_of_docker, level_of, of_docker, require_runtime, runtimes_of, shares_sockets
from agentkernel.engine.fingerprints import from_json, to_json
from agentkernel.errors import BackendUnavailable, Unsupported
from agentkernel.model.isolation import Feature, IsolationLevel, Support
from agentkernel.model.spec import NetworkMode, RootFilesystem, RootKind, SandboxSpec
from agentkernel.policy.runtimes import with_runtime

CONTAINER, USER_KERNEL, VM = IsolationLevel.CONTAINER, IsolationLevel.USER_KERNEL, IsolationLevel.VM


# -- addresses


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/run/docker.sock", "unix:///run/docker.sock"),
        ("unix:///run/my%20engine.sock", "unix:///run/my engine.sock"),
        ("tcp://10.0.0.1", "tcp://10.0.0.1:2375"),
        ("tcp://10.0.0.1:4243", "tcp://10.0.0.1:4243"),
        ("https://engine.example", "tcp://engine.example:2376"),
        ("ssh://me@far", "ssh://me@far"),
        ("ssh://far:2222", "ssh://far:2222"),
    ],
)
def test_an_address_is_read(text: str, shown: str) -> None:
    assert str(parse_endpoint(text, source="DOCKER_HOST")) == shown


@pytest.mark.parametrize(
    "text", ["", "docker.sock", "unix://run/docker.sock", "tcp://", "tcp://a:b", "fd://", "npipe:////./pipe/x", "ssh://-oProxyCommand=x"]
)
def test_what_is_no_address_is_refused_and_its_source_named(text: str) -> None:
    with pytest.raises(BackendUnavailable, match="DOCKER_HOST"):
        parse_endpoint(text, source="DOCKER_HOST")


def test_a_path_on_the_far_host_is_dialled_there() -> None:
    assert parse_endpoint("ssh://me@far", source="x").remote_program == ("docker", "system", "dial-stdio")
    podman = parse_endpoint("ssh://me@far/run/podman/podman.sock", source="x", program="podman", identity="/home/me/key")
    assert podman.remote_program == ("podman", "--url", "unix:///run/podman/podman.sock", "system", "dial-stdio")
    assert podman.identity == "/home/me/key"


# -- who is meant


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".docker").mkdir()
    return tmp_path


def environment(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), **more}


def add_context(home: Path, name: str, host: str, *, tls: bool = False) -> None:
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = home / ".docker" / "contexts" / "meta" / digest
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}}))
    if tls:
        files = home / ".docker" / "contexts" / "tls" / digest / "docker"
        files.mkdir(parents=True)
        for each in ("ca", "cert", "key"):
            (files / f"{each}.pem").touch()


def test_what_the_environment_names_comes_first(home: Path) -> None:
    add_context(home, "far", "ssh://me@far")
    (home / ".docker" / "config.json").write_text('{"currentContext": "far"}')
    named = docker_endpoint(environment(home, DOCKER_HOST="tcp://1.2.3.4:5"))
    assert (str(named), named and named.tls) == ("tcp://1.2.3.4:5", None)
    assert str(docker_endpoint(environment(home))) == "ssh://me@far"
    add_context(home, "near", "unix:///near.sock")
    assert str(docker_endpoint(environment(home, DOCKER_CONTEXT="near"))) == "unix:///near.sock"


def test_certificates_come_with_the_context_or_the_environment(home: Path) -> None:
    add_context(home, "safe", "tcp://safe.example:2376", tls=True)
    found = docker_endpoint(environment(home, DOCKER_CONTEXT="safe"))
    assert found is not None and found.tls is not None
    assert found.tls.verify and found.tls.authority.endswith("/docker/ca.pem") and found.tls.key.endswith("/docker/key.pem")
    (home / ".docker" / "ca.pem").touch()
    named = docker_endpoint(environment(home, DOCKER_HOST="tcp://1.2.3.4", DOCKER_TLS_VERIFY="1"))
    assert named is not None and named.tls is not None
    assert (named.port, named.tls.authority, named.tls.certificate) == (2376, str(home / ".docker" / "ca.pem"), "")
    (configured := home / "elsewhere").mkdir()
    (configured / "cert.pem").touch()
    given = docker_endpoint(environment(home, DOCKER_HOST="tcp://1.2.3.4", DOCKER_TLS_VERIFY="1", DOCKER_CONFIG=str(configured)))
    assert given is not None and given.tls is not None
    assert (given.tls.authority, given.tls.certificate) == ("", str(configured / "cert.pem"))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"currentContext": 7}', "[" * 100_000])
def test_a_damaged_configuration_of_dockers_is_none(home: Path, content: str) -> None:
    (home / ".docker" / "config.json").write_text(content)
    if content == '{"currentContext": 7}':
        with pytest.raises(BackendUnavailable, match="'7'"):
            docker_endpoint(environment(home))
    else:
        docker_endpoint(environment(home))


def test_a_context_that_is_not_there_is_named(home: Path) -> None:
    with pytest.raises(BackendUnavailable, match="no docker context 'gone'"):
        docker_endpoint(environment(home, DOCKER_CONTEXT="gone"))


def test_podmans_connection_and_served_socket_are_found(home: Path) -> None:
    assert podman_endpoint(environment(home), 1234) is None
    served = home / "run" / "podman" / "podman.sock"
    served.parent.mkdir(parents=True)
    served.touch()
    assert str(podman_endpoint(environment(home), 1234)) == f"unix://{served}"
    connections = home / ".config" / "containers" / "podman-connections.json"
    connections.parent.mkdir(parents=True)
    about = {"URI": "ssh://core@127.0.0.1:5000/run/podman.sock", "Identity": "/key", "IsMachine": True}
    connections.write_text(json.dumps({"Connection": {"Default": "m", "Connections": {"m": about}}}))
    machine = podman_endpoint(environment(home), 1234)
    assert machine is not None
    assert (machine.transport, machine.address, machine.port, machine.identity) == (Transport.SSH, "core@127.0.0.1", 5000, "/key")
    assert str(podman_endpoint(environment(home, CONTAINER_HOST="unix:///own.sock"), 1234)) == "unix:///own.sock"


# -- runtimes


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("runc", CONTAINER),
        ("crun", CONTAINER),
        ("sysbox-runc", CONTAINER),
        ("io.containerd.runc.v2", CONTAINER),
        ("nvidia", CONTAINER),
        ("my-vm", CONTAINER),
        ("runsc", USER_KERNEL),
        ("runsc-kvm", USER_KERNEL),
        ("/usr/local/bin/runsc", USER_KERNEL),
        ("io.containerd.runsc.v1", USER_KERNEL),
        ("kata", VM),
        ("kata-fc", VM),
        ("io.containerd.kata.v2", VM),
        ("krun", VM),
    ],
)
def test_the_level_follows_the_runtime(name: str, level: IsolationLevel) -> None:
    assert level_of(name) is level
    assert shares_sockets(level) is (level is CONTAINER)


def test_what_a_runtime_is_counts_and_not_how_it_is_called() -> None:
    information = {
        "DefaultRuntime": "safe",
        "Runtimes": {
            "safe": {"path": "/usr/bin/runsc", "runtimeArgs": ["--network=none"]},
            "runsc": {"path": "/usr/bin/runc"},
            "kata": {"runtimeType": "io.containerd.kata.v2"},
            "runc": {"path": "runc"},
        },
    }
    assert {each.name: each.level for each in of_docker(information)} == {
        "kata": VM,
        "runc": CONTAINER,
        "runsc": CONTAINER,
        "safe": USER_KERNEL,
    }
    assert default_of_docker(information) is USER_KERNEL
    assert of_docker({}) == ()


def test_a_runtime_that_the_engine_lacks_is_refused_with_what_to_install() -> None:
    known = runtimes_of(["runc", "runsc"])
    assert require_runtime("runsc", known, "docker") is USER_KERNEL
    for name, hint in (
        ("kata", "katacontainers"),
        ("sysbox-runc", "nestybox"),
        ("gvisor", "runsc install"),
        ("crun", "crun"),
        ("odd", "add it"),
    ):
        with pytest.raises(Unsupported, match=f"no runtime '{name}'") as refused:
            require_runtime(name, known, "docker")
        assert hint in refused.value.hint


@pytest.mark.parametrize(("told", "local"), [(os.uname().nodename, True), ("another-host", False), (None, False)])
async def test_an_engine_that_tells_another_hosts_name_is_not_here(tmp_path: Path, told: str | None, local: bool) -> None:
    async def information(writer: Writer) -> None:
        answer(writer, {"OSType": "linux", "KernelVersion": os.uname().release, "Name": told})

    async with serving(Server(answers={"/info": information}), tmp_path):
        dialect = DockerDialect({"DOCKER_HOST": f"unix://{tmp_path}/engine.sock"})
        try:
            assert (await dialect.facts()).local is local
        finally:
            dialect.close()


@pytest.mark.parametrize(
    ("local", "runtime", "separation"),
    [(True, CONTAINER, Support.NATIVE), (True, USER_KERNEL, Support.EMULATED), (False, CONTAINER, Support.EMULATED)],
)
def test_where_the_agent_listens_inside_it_is_not_apart_from_root(local: bool, runtime: IsolationLevel, separation: Support) -> None:
    facts = EngineFacts(version="4.3", architecture="x86_64", local=local, rootless=True, sessions=True, level=runtime)
    found = ready("podman", facts, mounts=local, sampled=False, inside=lambda level: stream_of(level, facts) is Stream.SESSION)
    assert found.support(Feature.AGENT_SEPARATION) is separation


def test_what_another_runtime_makes_of_it_is_declared_with_the_runtime() -> None:
    facts = EngineFacts(
        version="4.3", architecture="x86_64", local=True, rootless=True, sessions=True, runtimes=runtimes_of(("crun", "runsc"))
    )
    found = ready("podman", facts, mounts=True, sampled=False, inside=lambda level: stream_of(level, facts) is Stream.SESSION)
    assert from_json(json.loads(json.dumps(to_json(found)))) == found
    for name, support in (("runsc", Support.EMULATED), ("crun", Support.NATIVE)):
        (chosen,) = with_runtime(name, None, [found])
        assert (chosen.support(Feature.AGENT_SEPARATION), chosen.support(Feature.EXEC)) == (support, Support.NATIVE)


# -- podman


@pytest.mark.parametrize(
    ("reference", "plain"),
    [
        ("localhost/a:1", True),
        ("localhost:5000/a", True),
        ("127.0.0.1:5000/a", True),
        ("127.8.9.1/a", True),
        ("[::1]/a", True),
        ("[::1]:5000/a", True),
        ("127.0.0.1.evil.example/a", False),
        ("127.evil.example:5000/a", False),
        ("localhost.evil.example/a", False),
        ("10.0.0.1:5000/a", False),
        ("[2001:db8::1]:5000/a", False),
        ("docker.io/library/a", False),
    ],
)
async def test_only_a_registry_on_loopback_is_pulled_from_without_certificates(tmp_path: Path, reference: str, plain: bool) -> None:
    async def pulled(writer: Writer) -> None:
        answer(writer, {"stream": "done"})

    server = Server(answers={"/libpod/images/pull": pulled})
    async with serving(server, tmp_path) as api:
        assert [line async for line in PodmanImageCalls(api).pull(reference, "", {})] == [{"stream": "done"}]
    (target,) = [target for _, target, _ in server.asked if "/pull" in target]
    assert ("tlsVerify=" in target) is plain


def test_a_rootless_container_makes_the_caller_its_user() -> None:
    assert caller_as(1000, [(0, 1), (1, 65536)]) == (
        IdMap(inside=0, outside=1, count=1000),
        IdMap(inside=1000, outside=0, count=1),
        IdMap(inside=1001, outside=1001, count=64536),
    )
    assert caller_as(0, [(0, 1), (1, 65536)]) == (IdMap(inside=0, outside=0, count=1), IdMap(inside=1, outside=1, count=65536))
    assert caller_as(1000, [(0, 1)]) == (IdMap(inside=1000, outside=0, count=1),)


def test_every_id_of_the_engine_is_used_once() -> None:
    for user in (0, 1, 5, 999, 1000, 4000):
        for count in (1, 5, 1000, 1001, 65536):
            lines = caller_as(user, [(0, 1), (1, count)])
            outside = sorted((line.outside, line.count) for line in lines)
            assert [first for first, _ in outside] == [sum(n for _, n in outside[:i]) for i in range(len(outside))]
            assert sum(n for _, n in outside) == count + 1
            assert any(line.inside == user and line.outside == 0 for line in lines)


def test_gpus_have_names() -> None:
    assert cdi_names("all") == ["nvidia.com/gpu=all"]
    assert cdi_names("2") == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    assert cdi_names("GPU-1,GPU-2") == ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=GPU-2"]
    assert cdi_names("") == []


def made_of(**changes: Any) -> dict[str, Any]:
    """What libpod is asked for, of a spec with changes."""
    root = RootFilesystem(kind=RootKind.IMAGE, reference="localhost/x:1", digest="sha256:" + "0" * 64)
    way = changes.pop("way", Way(seccomp_file="/seccomp", limits=frozenset(("memory", "pids", "cpu"))))
    stream = changes.pop("stream", Stream.SOCKET)
    binds = changes.pop("binds", ())
    naming = Naming(sandbox_id="0" * 16, owner="o", version="1", guest_volume="guest", stream=stream, run_directory="/host/run")
    return specification(plan_of(SandboxSpec(name="x", profile="moderate", root=root, **changes), naming), binds, way)


def test_podman_is_asked_for_every_wall() -> None:
    spec = made_of()
    assert (spec["cap_drop"], spec["no_new_privileges"], spec["privileged"]) == (["ALL"], True, False)
    assert set(spec["cap_add"]) == {"CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"}
    assert spec["seccomp_profile_path"] == "/seccomp"
    assert spec["netns"] == {"nsmode": "none"}
    assert spec["image"].startswith("sha256:") and spec["entrypoint"] == ["/.agentkernel/bin/agentkernel-guest"]
    assert spec["log_configuration"] == {"driver": "none"} and spec["healthconfig"] == {"Test": ["NONE"]}
    assert spec["resource_limits"]["memory"]["limit"] == spec["resource_limits"]["memory"]["swap"]
    assert not spec["httpproxy"] and not spec["env_host"], "nothing of the host's environment comes in"
    assert (spec["unsetenvall"], spec["env"], spec["image_volume_mode"]) == (True, {}, "ignore"), "nor anything of the image's"
    assert {"core", "nofile"} >= {each["type"] for each in spec["r_limits"]}


def test_podman_is_told_of_mounts_owners_and_names() -> None:
    binds = (
        EngineBind(source="/a", target="/x", writable=True, protected=(".git/hooks",)),
        EngineBind(source="/b", target="/y", writable=False, executable=False),
    )
    spec = made_of(
        binds=binds,
        network=NetworkMode.FILTERED,
        way=Way(seccomp_file="", resolver_file="/r", uid_map=caller_as(1000, [(0, 1), (1, 65536)])),
    )
    mounts = {mount["destination"]: mount for mount in spec["mounts"]}
    assert "rw" in mounts["/x"]["options"] and "ro" in mounts["/x/.git/hooks"]["options"] and "rw" in mounts["/x/.git"]["options"]
    assert {"ro", "noexec"} <= set(mounts["/y"]["options"])
    assert mounts["/home/user"]["options"][1].startswith("mode=755,uid=1000,gid=1000,")
    assert mounts["/etc/resolv.conf"]["source"] == "/r" and mounts["/.agentkernel/closed/run"]["source"] == "/host/run"
    assert spec["userns"] == {"nsmode": "private"} and spec["idmappings"]["UIDMap"][1] == {"container_id": 1000, "host_id": 0, "size": 1}
    assert "seccomp_profile_path" not in spec and "CAP_NET_BIND_SERVICE" in spec["cap_add"]


def test_a_stream_inside_binds_nothing_of_the_host() -> None:
    spec = made_of(stream=Stream.SESSION, runtime="runsc")
    assert spec["command"] == ["agent", "--listen", "/.agentkernel/closed/agent.sock"]
    assert [mount for mount in spec["mounts"] if mount["type"] == "bind"] == []
    assert {mount["destination"]: mount["options"][1] for mount in spec["mounts"]}["/home/user"] == "mode=1777"
