"""What callers elsewhere may ask for: nothing of the host's files, whatever profile they name, but with scope `host`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, HOST_ROOT, World

from agentkernel.abc import Caller
from agentkernel.engine import access
from agentkernel.engine.confine import check_image_work, confined, told
from agentkernel.engine.host import HostEngine
from agentkernel.errors import Refused
from agentkernel.model.command import Command
from agentkernel.model.image import ImageWork, ImageWorkKind
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Support
from agentkernel.model.network import Base, EgressChange
from agentkernel.model.record import CreateOptions, EventFilter
from agentkernel.model.request import SandboxRequest
from agentkernel.model.rules import parse_rule
from agentkernel.model.spec import Bind, NetworkMode, RootFilesystem, WorkspaceMode
from agentkernel.policy.network import Network, network
from agentkernel.policy.profiles import profile as profile_of

FAR = Caller(principal="ann", scopes=frozenset({"full"}), remote=True, via="ci")
FAR_HOST = replace(FAR, scopes=frozenset({"full", "host"}))
RUNNER = Caller(principal="ann", scopes=frozenset({"run-only"}), remote=True, via="ci")
OWN = (ip_address("203.0.113.5"), ip_network("203.0.113.0/28"), ip_address("2001:db8::5"))  # public ones of the host, as it were
OF_THE_HOST: dict[str, dict[str, Any]] = {
    "mounts": {"mounts": (Bind(source="/srv", target="/data"),)},
    "directory": {"directory": "/srv"},
    "image": {"image": "/srv/root.tar"},
    "mount_cwd": {"mount_cwd": True},
    "mount_home": {"mount_home": True},
    "pass_environment": {"pass_environment": True},
}


def _confined(caller: Caller, request: SandboxRequest) -> SandboxRequest:
    return confined(caller, request, lambda: OWN)


def _network(request: SandboxRequest) -> Network:
    return network(request, profile_of(request.profile))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.end()


@pytest.mark.parametrize("what", OF_THE_HOST)
async def test_a_remote_caller_may_not_name_what_is_on_the_host(world: World, what: str) -> None:
    engine = world.engine()
    request = SandboxRequest(argv=(b"true",), **OF_THE_HOST[what])

    async def entered(manager: Any) -> None:
        async with manager:
            raise AssertionError("it was made")

    for ask in (
        lambda: engine.grant(FAR, request),
        lambda: engine.create(FAR, request, CreateOptions()),
        lambda: engine.ephemeral(RUNNER, request, 5),
        lambda: entered(engine.sandbox(FAR, request)),
        lambda: entered(engine.run(RUNNER, request, Command(argv=(b"true",)))),
    ):
        with pytest.raises(Refused, match="remote caller"):
            await ask()
    assert world.machines == {}
    assert _confined(ANN, request) is request
    assert _confined(FAR_HOST, request) is request


@pytest.mark.parametrize("profile", ["permissive", "moderate", "restrictive"])
async def test_no_profile_shows_a_remote_caller_what_is_on_the_host(world: World, tmp_path: Path, profile: str) -> None:
    here = tmp_path / "project"
    here.mkdir()
    (here / "notes").write_text("mine")
    request = SandboxRequest(argv=(b"cat", b"notes"), cwd=str(here), host_environment={"SECRETS": "x"}, profile=profile)
    engine = world.engine()
    near, far = await engine.grant(ANN, request), await engine.grant(FAR, request)
    assert near.spec.workspace.source == ("" if profile == "moderate" else str(here))
    assert far.spec.workspace.mode is WorkspaceMode.NONE
    assert (far.spec.mounts, far.spec.home_source) == ((), "")
    assert "SECRETS" not in dict(far.spec.environment)
    absolute = replace(request, argv=(b"cat", str(here / "notes").encode()))
    assert (await engine.grant(FAR, absolute)).spec.workspace.mode is WorkspaceMode.NONE
    assert await engine.aftermath(FAR, near) == ()


async def test_no_profile_gives_a_remote_caller_the_network_of_the_host(world: World) -> None:
    engine = world.engine()
    request = SandboxRequest(argv=(b"true",), profile="permissive")
    assert _network(request).mode is NetworkMode.HOST
    far = _network(_confined(RUNNER, request))
    assert (far.mode, far.rules.base) == (NetworkMode.FILTERED, Base.PUBLIC)
    assert _network(_confined(FAR_HOST, request)).mode is NetworkMode.HOST
    assert (await engine.grant(FAR, request)).spec.network is not NetworkMode.HOST


@pytest.mark.parametrize("text", ["127.0.0.1:22", "169.254.169.254", "10.1.0.0/16", "0.0.0.0", "[::1]:80", "fd00:ec2::254"])
async def test_a_remote_caller_may_not_open_the_networks_of_the_host(world: World, text: str) -> None:
    engine = world.engine()
    rule = parse_rule(text)
    request = SandboxRequest(argv=(b"true",), allow_hosts=(rule,))
    for caller in (FAR, RUNNER):
        with pytest.raises(Refused, match="may not open"):
            _confined(caller, request)
        with pytest.raises(Refused, match="may not open"):
            await engine.change_network(caller, "box", EgressChange(allow=(rule,)))
    assert _confined(FAR_HOST, request) is request
    public = replace(request, allow_hosts=(parse_rule("example.com:443"), parse_rule("8.8.8.8"), parse_rule("*.internal")))
    assert _confined(FAR, public).allow_hosts == public.allow_hosts


@pytest.mark.parametrize("caller", [FAR, RUNNER])
async def test_what_the_operator_of_a_server_adds_is_not_the_callers(world: World, caller: Caller) -> None:
    """Its own networks and its image stay; of what the caller asks nothing is believed to be the operator's but on a server's word."""
    engine = world.engine()
    theirs, own = parse_rule("10.1.0.0/16:22"), parse_rule("10.2.0.0/16")
    request = SandboxRequest(argv=(b"true",), profile="moderate", allow_hosts=(theirs,), added_hosts=(theirs,))
    vouched = replace(caller, vouched=True)
    assert _network(_confined(vouched, request)).rules.allow == (theirs,)
    assert (await engine.grant(vouched, request)).spec.egress.allow == (theirs,)
    with pytest.raises(Refused, match="may not open"):
        await engine.grant(caller, request)
    with pytest.raises(Refused, match="may not open"):
        await engine.grant(vouched, replace(request, allow_hosts=(theirs, own)))
    with pytest.raises(Refused, match="may not open"):
        await engine.change_network(vouched, "box", EgressChange(allow=(own,)))
    of_a_file = SandboxRequest(argv=(b"true",), image="/srv/root.tar", added_image="/srv/root.tar")
    assert _confined(vouched, of_a_file).image == "/srv/root.tar"
    for who, asked in ((caller, of_a_file), (vouched, replace(of_a_file, image="/srv/other.tar"))):
        with pytest.raises(Refused, match="an image that is a file"):
            _confined(who, asked)
    for given in OF_THE_HOST.values():
        with pytest.raises(Refused, match="remote caller"):
            _confined(vouched, SandboxRequest(argv=(b"true",), **given))


@pytest.mark.parametrize("text", ["203.0.113.5:22", "203.0.113.9", "203.0.113.8/30", "203.0.113.0/28", "[2001:db8::5]:22"])
async def test_nor_its_own_public_address_and_its_neighbours(world: World, text: str) -> None:
    engine = world.engine(own_addresses=lambda: OWN)
    rule = parse_rule(text)
    for caller in (FAR, RUNNER, replace(FAR, vouched=True)):
        with pytest.raises(Refused, match="may not open"):
            await engine.grant(caller, SandboxRequest(argv=(b"true",), allow_hosts=(rule,)))
        with pytest.raises(Refused, match="may not open"):
            await engine.change_network(caller, "box", EgressChange(allow=(rule,)))
    for beside in ("203.0.113.77", "203.0.112.0/20", "example.com"):  # which opens nothing of the host's
        request = SandboxRequest(argv=(b"true",), allow_hosts=(parse_rule(beside),))
        assert _confined(FAR, request).allow_hosts == request.allow_hosts

    def unknown() -> Any:
        raise OSError("no netlink here")

    with pytest.raises(Refused, match="cannot be told"):
        confined(FAR, SandboxRequest(allow_hosts=(rule,)), unknown)


async def test_a_program_given_by_its_path_does_not_show_where_it_lies(world: World) -> None:
    asked: list[tuple[bytes, ...]] = []
    parts = world.engine()._core.parts

    def host_root(**question: Any) -> RootFilesystem:
        asked.append(question["argv"])
        return HOST_ROOT

    engine = HostEngine(replace(parts, images=replace(parts.images, host_root=host_root)))
    world.engines.append(engine)
    for argv in ((b"/home/user/own/bin/tool", b"/x"), (b"tool", b"/x"), ()):
        request = SandboxRequest(argv=argv)
        near, far = await engine.grant(ANN, request), await engine.grant(FAR, request)
        assert near.spec.root.binds
        assert far.spec.root.binds == ()
    assert asked == [(b"/home/user/own/bin/tool", b"/x"), (b"./tool", b"/x"), (b"tool", b"/x"), (b"tool", b"/x"), (), ()]


def test_images_are_made_of_files_by_those_who_have_them() -> None:
    for kind in ImageWorkKind:
        work = ImageWork(kind=kind, reference="app", path="/srv")
        check_image_work(ANN, work)
        check_image_work(FAR_HOST, work)
        if kind is ImageWorkKind.PULL:
            check_image_work(FAR, work)
        else:
            with pytest.raises(Refused, match="remote caller"):
                check_image_work(FAR, work)


def test_scope_host_allows_nothing_by_itself_and_confines_as_the_others_do() -> None:
    only_host = Caller(principal="ann", scopes=frozenset({"host"}))
    with pytest.raises(Refused):
        access.require(only_host, "status")
    assert access.narrows(only_host) == frozenset()
    assert access.narrows(replace(only_host, scopes=frozenset({"host", "sandbox:one", "run-only"}))) == {"one"}
    assert access.narrows(FAR_HOST) is None


async def test_the_trail_tells_by_which_token_something_was_done_or_refused(world: World) -> None:
    engine = world.engine()
    made = await engine.create(FAR, SandboxRequest(argv=(b"true",)), CreateOptions(name="box", start=True))
    with pytest.raises(Refused, match=r"ann \(token ci\) may not do this"):
        await engine.stop(RUNNER, made.sandbox_id)
    await engine.stop(ANN, made.sandbox_id)
    await engine.remove(FAR, made.sandbox_id)
    told = [(event.kind, event.outcome, dict(event.details).get("via")) async for event in engine.events(ANN, EventFilter())]
    assert told == [
        ("sandbox.created", "ok", "ci"),
        ("sandbox.stopped", "refused", "ci"),
        ("sandbox.stopped", "ok", None),
        ("sandbox.removed", "ok", "ci"),
    ]


async def test_callers_elsewhere_are_told_what_a_backend_can_do_and_nothing_of_the_host(world: World) -> None:
    engine = world.engine()
    near = {found.backend: found for found in await engine.fingerprints(ANN)}
    assert list(await engine.fingerprints(FAR_HOST)) == list(near.values())
    for caller in (FAR, RUNNER):
        for found in await engine.fingerprints(caller):
            own = near[found.backend]
            assert (found.ready, found.level, found.runtimes) == (own.ready, own.level, own.runtimes)
            assert [(each, own.support(each)) for each in own.features] == [(each, found.support(each)) for each in found.features]
            assert not (found.reason or found.remedy or found.details)
            assert not any(each.reason or each.remedy for each in found.features.values())


def test_what_a_probe_found_is_of_the_host() -> None:
    provision = Provision(support=Support.EMULATED, reason="/sys/fs/cgroup cannot be written", remedy="delegate /sys/fs/cgroup")
    found = Fingerprint(
        backend="namespaces",
        ready=True,
        level=IsolationLevel.CONTAINER,
        reason="/usr/bin/newuidmap",
        features={Feature.MEMORY_LIMIT: provision},
        details={"kernel": "6.1"},
    )
    assert told(ANN, found) is found
    assert told(FAR_HOST, found) is found
    assert "/" not in str(told(RUNNER, found)) and "6.1" not in str(told(RUNNER, found))
