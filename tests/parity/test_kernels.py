"""`abc.Kernel` by the engine and by the daemon's client: the same answers to the same questions, field by field."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentkernel import assembly
from agentkernel.abc import Caller, Kernel
from agentkernel.config.principal import principal_of
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import Command
from agentkernel.model.record import CreateOptions, EventFilter, SandboxFilter, SandboxInfo
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Bind, StorageKind

CALLER = Caller(principal=principal_of(os.getuid()))
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}  # the daemon's own is another than this process's
PLAIN = SandboxRequest(cwd="/", mount_cwd=False, host_environment=ENVIRONMENT)
REQUESTS = {
    "plain": SandboxRequest(),
    "limits": SandboxRequest(memory_bytes=2**28, cpus=0.5, pids=50, disk_bytes=2**27, storage=StorageKind.DISK, user="root"),
    "shown": SandboxRequest(directory="/usr/share", mounts=(Bind(source="/usr/include", target="/data"),), profile="restrictive"),
    "environment": SandboxRequest(environment={"A": "é", "B": "x\ny"}),
    "impossible": SandboxRequest(profile="lenient"),
    "refused": SandboxRequest(mounts=(Bind(source="/", target="/host"),)),
    "no backend": SandboxRequest(backend="no-such"),
}


@pytest.fixture
async def kernels(home: Path) -> AsyncIterator[tuple[Kernel, Kernel]]:
    """The engine in process, and the one behind the daemon."""
    environment = dict(os.environ)
    engine, remote = assembly.build_engine(environment), assembly.build_client(environment)
    yield engine, remote
    await remote.close()
    await engine.close()


async def _answer(kernel: Kernel, request: SandboxRequest) -> object:
    request = replace(request, host_environment=ENVIRONMENT)
    try:
        grant = await kernel.grant(CALLER, request)
    except AgentKernelError as error:
        return error.code, error.message, error.hint, error.exit_status
    return replace(grant, spec=replace(grant.spec, name=""))  # it is random where none is asked for


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_grant_or_refusal(name: str, kernels: tuple[Kernel, Kernel]) -> None:
    engine, remote = kernels
    assert await _answer(engine, REQUESTS[name]) == await _answer(remote, REQUESTS[name])


async def test_what_the_backends_can_do(kernels: tuple[Kernel, Kernel]) -> None:
    engine, remote = kernels
    own, other = await engine.fingerprints(CALLER), await remote.fingerprints(CALLER)
    assert tuple(own) == tuple(other)
    assert engine.isolation_of("namespaces") == remote.isolation_of("namespaces")


async def test_the_life_of_a_sandbox(kernels: tuple[Kernel, Kernel]) -> None:
    seen = []
    for kernel in kernels:
        infos: list[SandboxInfo] = []
        made = await kernel.create(CALLER, PLAIN, CreateOptions(name="box", labels=(("a", "1"),)))
        ident = made.sandbox_id
        infos.append(made)
        infos.append(await kernel.start(CALLER, "box"))
        sandbox = await kernel.open(CALLER, ident)
        assert sandbox.sandbox_id == ident and sandbox.backend == made.backend
        done = await sandbox.exec(Command(argv=(b"sh", b"-c", b"echo $0; exit 2", b"\xff")))
        await sandbox.close()
        infos.append(await kernel.rename(CALLER, ident, "other"))
        infos.append(await kernel.extend(CALLER, "other", 100.0))
        infos.append(await kernel.relabel(CALLER, "other", (("b", "2"),)))
        infos.append(await kernel.stop(CALLER, "other"))
        infos += await kernel.sandboxes(CALLER, SandboxFilter(labels=(("b", "2"),)))
        spec = replace(await kernel.spec(CALLER, "other"), linger_s=None)  # only one in process ends with its engine
        await kernel.remove(CALLER, "other")
        kinds = [event.kind async for event in kernel.events(CALLER, EventFilter(sandbox=ident))]
        seen.append(([_lasting(info) for info in infos], done.stdout, done.exit_code, spec, kinds))
    assert seen[0] == seen[1]


def _lasting(info: SandboxInfo) -> SandboxInfo:
    """Without what differs from one to the next."""
    return replace(
        info,
        sandbox_id="",
        created_at=0.0,
        used_at=0.0,
        started_at=0.0 if info.started_at else None,
        expires_at=0.0 if info.expires_at else None,
    )


async def test_events_of_many_pages(kernels: tuple[Kernel, Kernel]) -> None:
    for kernel in kernels:
        made = await kernel.create(CALLER, PLAIN, CreateOptions(name="busy"))
        for number in range(250):
            await kernel.relabel(CALLER, made.sandbox_id, (("number", str(number)),))
        wanted = EventFilter(sandbox=made.sandbox_id, limit=200)
        first = [event async for event in kernel.events(CALLER, wanted)]
        rest = [event async for event in kernel.events(CALLER, replace(wanted, after=first[-1].event_id))]
        assert (len(first), len(rest)) == (200, 51)
        assert sorted(event.event_id for event in first + rest) == [event.event_id for event in first + rest]
        await kernel.remove(CALLER, made.sandbox_id)


async def test_events_are_followed(kernels: tuple[Kernel, Kernel]) -> None:
    for kernel in kernels:
        made = await kernel.create(CALLER, PLAIN, CreateOptions(name="watched"))
        seen = []
        async for event in kernel.events(CALLER, EventFilter(sandbox=made.sandbox_id), follow=True):
            seen.append(event.kind)
            if event.kind == "sandbox.created":
                await kernel.relabel(CALLER, made.sandbox_id, (("a", "b"),))
            elif event.kind == "sandbox.relabeled":
                await kernel.remove(CALLER, made.sandbox_id)
            else:
                break
        assert seen == ["sandbox.created", "sandbox.relabeled", "sandbox.removed"]


async def test_logs_are_followed(kernels: tuple[Kernel, Kernel]) -> None:
    for kernel in kernels:
        made = await kernel.create(CALLER, PLAIN, CreateOptions(name="logging", start=True))
        sandbox = await kernel.open(CALLER, made.sandbox_id)
        script = b"echo 1; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo 2"
        process = await sandbox.start(Command(argv=(b"sh", b"-c", script), detached=True))
        said = b""
        async for entry in kernel.logs(CALLER, made.sandbox_id, exec_id=process.exec_id, follow=True):
            assert (entry.exec_id, entry.stream) == (process.exec_id, 1)
            if not said:
                await sandbox.files.write("/tmp/go", b"")
            said += entry.data
            if said == b"1\n2\n":
                break
        await process.wait()
        await sandbox.close()
        await kernel.remove(CALLER, made.sandbox_id, force=True)


async def test_a_block(kernels: tuple[Kernel, Kernel]) -> None:
    for kernel in kernels:
        async with kernel.sandbox(CALLER, replace(PLAIN, memory_bytes=2**28)) as (sandbox, grant):
            assert (grant.spec.resources.memory_bytes, grant.backend) == (2**28, sandbox.backend)
            assert sandbox.spec.storage is StorageKind.MEMORY
            assert (await sandbox.exec(Command(argv=(b"true",)))).exit_code == 0
            assert await kernel.aftermath(CALLER, grant) == ()
