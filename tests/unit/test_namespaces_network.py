"""The filtered network of this backend, up to the agent: where it listens, who may, and what is refused at once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from conformance.directories import own_temporary_directory
from conformance.roots import ENVIRONMENT, host_root

from agentkernel.abc import Sandbox
from agentkernel.backends._linux.delegation import CgroupHost
from agentkernel.backends._linux.facts import read_facts
from agentkernel.backends.namespaces import fingerprint, process_level
from agentkernel.backends.namespaces.backend import NamespacesBackend
from agentkernel.backends.namespaces.configuration import configuration_of
from agentkernel.errors import LaunchFailed, SandboxFailed, Unsupported
from agentkernel.model.command import Command
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Support
from agentkernel.model.spec import NetworkMode, SandboxSpec, StorageKind

OWNER = "ef" * 16
ID = "fedcba9876543210"
SPEC = SandboxSpec(name="net", profile="moderate", root=host_root(), environment=ENVIRONMENT, network=NetworkMode.FILTERED)
NO_GROUPS = CgroupHost(version=0, parents={})
NETWORK = (Feature.NETWORK_FILTERED, Feature.TRANSPARENT_NETWORK)


@pytest.fixture(autouse=True)
def _guest(guest_binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))


@pytest.fixture
def state() -> Iterator[Path]:
    with own_temporary_directory() as directory:
        place = directory / "s"
        place.mkdir(mode=0o711)
        yield place


@pytest.fixture
async def declared(state: Path) -> Fingerprint:
    return await NamespacesBackend(state).probe()


@pytest.fixture
async def backend(state: Path, declared: Fingerprint) -> AsyncIterator[NamespacesBackend]:
    if declared.support(Feature.NETWORK_FILTERED) is not Support.NATIVE:
        pytest.skip(f"network-filtered: {declared.features[Feature.NETWORK_FILTERED].reason or declared.reason}")
    backend = NamespacesBackend(state)
    yield backend
    await backend.sweep_owned(OWNER, ())


async def said(sandbox: Sandbox, script: str) -> str:
    result = await sandbox.exec(Command(argv=(b"python3", b"-c", script.encode()), timeout_s=30.0))
    return (result.stdout + result.stderr).decode()


LISTENERS = """
import pathlib
rows = [line.split() for name in ("tcp", "udp") for line in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]]
print(sorted({int(row[1].split(":")[1], 16) for row in rows if row[3] in ("0A", "07")}))
"""


async def test_the_agent_listens_on_loopback_where_programs_are_told_to_look(backend: NamespacesBackend) -> None:
    sandbox = await backend.create(SPEC)
    try:
        assert await said(sandbox, LISTENERS) == "[53, 3128]\n"
        assert await said(sandbox, "print(open('/etc/resolv.conf').read(), end='')") == "nameserver 127.0.0.1\n"
    finally:
        await sandbox.destroy()


async def test_without_network_nothing_listens(backend: NamespacesBackend) -> None:
    sandbox = await backend.create(dataclasses.replace(SPEC, network=NetworkMode.NONE))
    try:
        assert await said(sandbox, LISTENERS) == "[]\n"
    finally:
        await sandbox.destroy()


async def test_the_workload_may_serve_on_any_port_but_the_agents(backend: NamespacesBackend) -> None:
    script = """
import socket
for port in (80, 53, 3128):
    listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try: listener.bind(("127.0.0.1", port)); listener.listen(); print(port)
    except OSError as error: print(error.strerror)
"""
    sandbox = await backend.create(SPEC)
    try:
        assert await said(sandbox, script) == "80\nAddress already in use\nAddress already in use\n"
    finally:
        await sandbox.destroy()


REACHED = """
import errno, socket
def tried(kind, address):
    with socket.socket(socket.AF_INET, kind) as one:
        one.settimeout(10)
        try: one.connect(address); one.send(b"x") if kind == socket.SOCK_DGRAM else None; return "connected"
        except OSError as error: return errno.errorcode.get(error.errno, str(error))
print(tried(socket.SOCK_STREAM, ("198.18.0.9", 443)), tried(socket.SOCK_DGRAM, ("192.0.2.1", 443)))
"""


async def test_an_address_outside_leads_nowhere_unless_connections_are_redirected(
    backend: NamespacesBackend, declared: Fingerprint
) -> None:
    sandbox = await backend.create(SPEC)
    try:
        assert await said(sandbox, REACHED) == "ENETUNREACH ENETUNREACH\n"
    finally:
        await sandbox.destroy()
    if declared.support(Feature.TRANSPARENT_NETWORK) is not Support.NATIVE:
        pytest.skip(f"transparent-network: {declared.features[Feature.TRANSPARENT_NETWORK].reason}")
    sandbox = await backend.create(dataclasses.replace(SPEC, transparent_network=True))
    try:
        tcp, udp = (await said(sandbox, REACHED)).split()
        assert tcp in ("connected", "ECONNRESET")  # accepted by the agent, whose host takes no tunnels here
        assert udp == "EPERM"  # at once, so that programs go on by other ways
        assert await said(sandbox, LISTENERS) == "[53, 3128, 3129]\n"
    finally:
        await sandbox.destroy()


async def test_a_sandbox_that_is_taken_up_again_still_listens(backend: NamespacesBackend) -> None:
    spec = dataclasses.replace(SPEC, storage=StorageKind.DISK)
    sandbox = await backend.boot(ID, spec, OWNER)
    await sandbox.close()
    again = await backend.recover(ID, spec, OWNER)
    assert again is not None
    assert await said(again, LISTENERS) == "[53, 3128]\n"
    await again.stop()
    restarted = await backend.boot(ID, spec, OWNER)
    assert await said(restarted, LISTENERS) == "[53, 3128]\n"
    await restarted.destroy()


def test_a_port_for_redirected_connections_is_said_only_where_there_are_any() -> None:
    def ports(**changes: object) -> object:
        spec = dataclasses.replace(SPEC, **changes)
        return configuration_of(spec, os.uname().machine, memory_by_group=True, pids_by_group=True).network

    assert ports() == (3128, 53, 0)
    assert ports(transparent_network=True) == (3128, 53, 3129)
    assert ports(network=NetworkMode.NONE) is ports(network=NetworkMode.HOST) is None


def test_a_host_that_cannot_redirect_or_filter_says_why_and_what_helps() -> None:
    def declared_after(**failures: SandboxFailed) -> list[tuple[Support, str, str]]:
        found = fingerprint.ready(read_facts(), NO_GROUPS, **failures).features
        return [(found[feature].support, found[feature].reason, found[feature].remedy) for feature in NETWORK]

    refused = LaunchFailed("cannot redirect connections to the agent: EPERM", hint=fingerprint.STEP_HINT)
    assert declared_after() == [(Support.NATIVE, "", "")] * 2
    filtered, transparent = declared_after(opaque=refused)
    assert filtered == (Support.NATIVE, "", "")
    assert transparent[:2] == (Support.REFUSED, refused.message) and "modprobe" in transparent[2]
    other = LaunchFailed("no room", hint="make room")
    assert declared_after(opaque=other, unfiltered=other) == [(Support.REFUSED, "no room", "make room")] * 2


@pytest.mark.parametrize("mode", [NetworkMode.FILTERED, NetworkMode.HOST])
def test_level_process_has_no_network_to_give(mode: NetworkMode) -> None:
    spec = dataclasses.replace(SPEC, network=mode, level=IsolationLevel.PROCESS)
    with pytest.raises(Unsupported, match="network at isolation level `process`") as refused:
        process_level.relocate(spec, "/data", 1000, 1000)
    assert refused.value.hint
    obstacle = LaunchFailed("cannot create the namespaces", hint="ask for them")
    features = fingerprint.process_only(read_facts(), NO_GROUPS, obstacle).features
    assert {features[feature].support for feature in (*NETWORK, Feature.PUBLISHED_PORTS)} == {Support.REFUSED}
    assert features[Feature.NETWORK_FILTERED].remedy == "ask for them"
