"""`Kernel.run`: one command in a sandbox of its own, by the engine and behind the daemon alike."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentkernel import assembly
from agentkernel.abc import Caller, Kernel, Process
from agentkernel.config.principal import principal_of
from agentkernel.errors import CommandNotFound, InvalidInput, Refused, UnknownKey
from agentkernel.model.command import Cause, Command, ExitStatus, TerminalSize
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.record import EventFilter, SandboxFilter
from agentkernel.model.request import SandboxRequest

CALLER = Caller(principal=principal_of(os.getuid()))
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
PLAIN = SandboxRequest(cwd="/", mount_cwd=False, host_environment=ENVIRONMENT)


@pytest.fixture(params=("engine", "daemon"))
async def kernel(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[Kernel]:
    """The engine in process, or the one behind the daemon."""
    build = assembly.build_engine if request.param == "engine" else assembly.build_client
    kernel = build(dict(os.environ))
    yield kernel
    await kernel.close()


def shell(script: str, *words: str, **more: object) -> Command:
    return Command(argv=tuple(word.encode() for word in ("sh", "-c", script, *words)), **more)  # type: ignore[arg-type]


async def told(process: Process) -> tuple[ExitStatus, dict[int, bytes]]:
    """The end, and all output by stream."""
    found: dict[int, bytes] = {}
    async for stream, data in process.output():
        found[stream] = found.get(stream, b"") + data
    return await process.wait(), found


async def all_gone(kernel: Kernel) -> None:
    async with asyncio.timeout(30):
        while await kernel.sandboxes(CALLER, SandboxFilter(ephemeral=True)):
            await asyncio.sleep(0.01)


async def test_a_command_runs_and_its_sandbox_goes(kernel: Kernel) -> None:
    async with kernel.run(CALLER, PLAIN, shell("echo out; echo err >&2; exit 3")) as run:
        status, output = await told(run.process)
        assert (status.exit_code, output) == (3, {1: b"out\n", 2: b"err\n"})
        assert (run.backend, run.isolation, len(run.sandbox_id)) == ("namespaces", IsolationLevel.CONTAINER, 16)
        assert kernel.isolation_of("namespaces") is IsolationLevel.CONTAINER
    await all_gone(kernel)
    kinds = [event.kind async for event in kernel.events(CALLER, EventFilter(sandbox=run.sandbox_id))]
    assert kinds == ["sandbox.created", "exec.started", "exec.ended", "sandbox.removed"]


async def test_input_goes_in_and_variables_and_directories_count(kernel: Kernel) -> None:
    command = shell('cat; echo "$A $PWD"', environment={b"A": b"b"}, cwd="/tmp", stdin=True)
    async with kernel.run(CALLER, PLAIN, command) as run:
        await run.process.write_stdin(b"x" * 100_000)
        await run.process.close_stdin()
        assert (await told(run.process))[1] == {1: b"x" * 100_000 + b"b /tmp\n"}


async def test_a_terminal_is_resized(kernel: Kernel) -> None:
    command = shell("stty size; read x; stty size", terminal=TerminalSize(rows=5, columns=70))
    async with kernel.run(CALLER, PLAIN, command) as run:
        output = run.process.output()
        said = b""
        while b"5 70" not in said:
            said += (await anext(output))[1]
        await run.process.resize(TerminalSize(rows=6, columns=71))
        await run.process.write_stdin(b"\n")
        said += b"".join([data async for _, data in output])
        assert b"6 71" in said


async def test_a_block_that_is_left_ends_its_command(kernel: Kernel) -> None:
    with pytest.raises(ZeroDivisionError):
        async with kernel.run(CALLER, PLAIN, shell("echo ready; exec sleep 1000")) as run:
            await anext(run.process.output())
            1 / 0  # noqa: B018 - whatever happens to the user of the block
    await all_gone(kernel)


async def test_signals_time_limits_and_what_is_left_running(kernel: Kernel) -> None:
    async with kernel.run(CALLER, PLAIN, shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")) as run:
        output = run.process.output()
        await anext(output)
        await run.process.signal(signal.SIGTERM)
        assert (await run.process.wait()).exit_code == 7
    async with kernel.run(CALLER, PLAIN, shell("sleep 1000", timeout_s=0.2)) as run:
        assert (await run.process.wait()).cause is Cause.TIMEOUT
    async with kernel.run(CALLER, PLAIN, shell("sleep 1000 & echo started")) as run:
        status, output_of = await told(run.process)
        assert (status.exit_code, output_of) == (0, {1: b"started\n"})


async def test_what_cannot_run_is_refused(kernel: Kernel) -> None:
    refusals = (
        (CALLER, PLAIN, Command(argv=(b"no-such-thing",)), CommandNotFound),
        (CALLER, PLAIN, shell("true", detached=True), InvalidInput),
        (CALLER, PLAIN, Command(argv=()), InvalidInput),
        (CALLER, replace(PLAIN, profile="lenient"), shell("true"), UnknownKey),
    )
    for caller, request, command, error in refusals:
        with pytest.raises(error):
            async with kernel.run(caller, request, command):
                pass
    await all_gone(kernel)


async def test_many_at_once(kernel: Kernel) -> None:
    async def one(number: int) -> bytes:
        async with kernel.run(CALLER, PLAIN, shell("echo $0", str(number))) as run:
            return (await told(run.process))[1][1]

    assert await asyncio.gather(*map(one, range(12))) == [f"{number}\n".encode() for number in range(12)]
    await all_gone(kernel)


async def test_a_run_goes_on_with_the_next_daemon(home: Path) -> None:
    caller = Caller(principal=CALLER.principal, scopes=frozenset({"run-only"}), remote=True, via="ci")
    kernel = assembly.build_client(dict(os.environ), caller)
    command = shell("echo 1; read x; echo 2; read x; echo 3; exit 4", stdin=True)
    try:
        async with kernel.run(caller, PLAIN, command) as run:
            output = run.process.output()
            first = await kernel.status(caller)
            for number in (b"1\n", b"2\n"):
                assert await anext(output) == (1, number)
                os.kill((await kernel.status(caller)).pid, signal.SIGKILL)
                await run.process.write_stdin(b"\n")
            assert await anext(output) == (1, b"3\n")
            assert (await run.process.wait()).exit_code == 4
            assert (await kernel.status(caller)).pid != first.pid
            with pytest.raises(Refused):  # the next daemon was told as well for whom this connection speaks
                await kernel.sandboxes(caller, SandboxFilter())
    finally:
        await kernel.close()
    after = assembly.build_client(dict(os.environ))
    try:
        await all_gone(after)
    finally:
        await after.close()
