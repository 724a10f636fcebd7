"""What sandboxes and the daemon hold, and whether many work at once: output, memory, bursts."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from agentkernel.benchmark.timing import Contender, distribution
from agentkernel.model.command import Command
from agentkernel.model.record import CreateOptions
from agentkernel.model.request import SandboxRequest
from benchmarks.contenders import CALLER, UnmeasurableError, cold, kernel, sandbox
from benchmarks.figures import Figure
from benchmarks.host import first_processes, proportional_kib, reset_peak, resident_kib
from benchmarks.served import NO_POOLS, served
from benchmarks.starting import TRUE

OUTPUT_BYTES = 1 << 30
SANDBOXES_MEASURED = 10
BURST = 100


async def output(n: int, cwd: Path) -> list[Figure]:
    """One GiB of output, thrown away by the host: its speed, and what the host's memory grows by."""
    del n
    argv = (b"/usr/bin/head", b"-c", str(OUTPUT_BYTES).encode(), b"/dev/zero")
    async with sandbox(kernel(), ("/usr/bin/head",), cwd) as (made, _):
        before = resident_kib()
        reset_peak()
        start = time.perf_counter()
        process = await made.start(Command(argv=argv))
        received = 0
        async for _stream, data in process.output():
            received += len(data)
        status = await process.wait()
        took_s = time.perf_counter() - start
        grown = (resident_kib(peak=True) - before) / 1024
    if received != OUTPUT_BYTES or status.exit_code != 0:
        raise UnmeasurableError(f"{received} of {OUTPUT_BYTES} bytes came, exit code {status.exit_code}")
    return [
        Figure(name="output of one command, 1 GiB", value=OUTPUT_BYTES / 1e6 / took_s, unit="MB/s"),
        Figure(name="growth of the host process meanwhile", value=grown, unit="MiB", bar=16.0, note="peak resident set"),
    ]


async def memory(n: int, cwd: Path) -> list[Figure]:
    """What each idle sandbox holds: its agent's proportional set, and the share of the host process."""
    del n
    door = kernel()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(sandbox(door, TRUE, cwd))  # imports and caches are not the sandboxes'
        strangers = first_processes()
        before = resident_kib()
        for _ in range(SANDBOXES_MEASURED):
            made, _grant = await stack.enter_async_context(sandbox(door, TRUE, cwd))
            await made.exec(Command(argv=(b"/usr/bin/true",)))
        host = (resident_kib() - before) / SANDBOXES_MEASURED
        agents = first_processes() - strangers
        if len(agents) != SANDBOXES_MEASURED:
            raise UnmeasurableError(f"{len(agents)} first processes found for {SANDBOXES_MEASURED} sandboxes")
        held = sum(proportional_kib(pid) for pid in agents) / SANDBOXES_MEASURED
    note = f"agent {held:.0f} KiB proportional, host process {host:.0f} KiB resident; mean of {SANDBOXES_MEASURED}"
    return [Figure(name="memory per idle sandbox", value=(held + host) / 1024, unit="MiB", bar=3.0, note=note)]


async def daemon_memory(n: int, cwd: Path) -> list[Figure]:
    """What the daemon holds when it has just started and has nothing to do, and with each idle sandbox."""
    del n
    async with served(NO_POOLS) as daemon:
        idle = resident_kib(daemon.pid)
        request = SandboxRequest(cwd=str(cwd), backend="namespaces")
        made = [await daemon.door.create(CALLER, request, CreateOptions(start=True))]  # what all share is not one sandbox's
        before = resident_kib(daemon.pid)
        strangers = first_processes(daemon.pid)
        for _ in range(SANDBOXES_MEASURED):
            made.append(await daemon.door.create(CALLER, request, CreateOptions(start=True)))
        grown = (resident_kib(daemon.pid) - before) / SANDBOXES_MEASURED
        agents = first_processes(daemon.pid) - strangers
        held = sum(proportional_kib(pid) for pid in agents) / max(1, len(agents))
        for each in made:
            await daemon.door.remove(CALLER, each.sandbox_id, force=True)
    if len(agents) != SANDBOXES_MEASURED:
        raise UnmeasurableError(f"{len(agents)} first processes found for {SANDBOXES_MEASURED} sandboxes")
    note = f"agent {held:.0f} KiB proportional, daemon {grown:.0f} KiB resident; mean of {SANDBOXES_MEASURED}"
    return [
        Figure(name="idle daemon", value=idle / 1024, unit="MiB", bar=60.0, note="resident set"),
        Figure(name="memory per idle sandbox of the daemon", value=(held + grown) / 1024, unit="MiB", bar=3.0, note=note),
    ]


async def burst(n: int, cwd: Path) -> list[Figure]:
    """A hundred sandboxes at once, each with a first command, in process and through the daemon."""
    del n
    async with served() as daemon:
        return [await burst_of("in process", cold(kernel(), TRUE, cwd)), await burst_of("daemon", cold(daemon.door, TRUE, cwd))]


async def burst_of(name: str, run: Contender) -> Figure:
    """A hundred times at once, after one that does not count."""
    await run()
    took: list[float] = []
    failures: list[str] = []

    async def one() -> None:
        start = time.perf_counter()
        try:
            await run()
        except Exception as error:  # noqa: BLE001 - any failure is the figure
            failures.append(f"{type(error).__name__}: {error}")
        else:
            took.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(BURST)))
    wall_s = time.perf_counter() - start
    note = f"all within {wall_s:.2f} s" + (f"; first failure: {failures[0]}" if failures else "")
    times = {"create to destroyed": distribution(took)} if took else {}
    return Figure(name=f"burst of {BURST}, {name}: succeeded", value=len(took), unit="", bar=BURST, at_least=True, note=note, times=times)
