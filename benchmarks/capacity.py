"""What sandboxes cost and whether many of them work: output, memory, bursts, and a sustained stream with its leaks."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from agentkernel.model.command import Command
from benchmarks.contenders import UnmeasurableError, cold, kernel, sandbox, take_turns
from benchmarks.figures import Figure, distribution
from benchmarks.host import Leaks, Standing, first_processes, proportional_kib, reset_peak, resident_kib
from benchmarks.starting import TRUE

OUTPUT_BYTES = 1 << 30
SANDBOXES_MEASURED = 10
BURST = 100
CLIENTS = 4


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


async def burst(n: int, cwd: Path) -> list[Figure]:
    """A hundred sandboxes at once, each with a first command."""
    del n
    run = cold(kernel(), TRUE, cwd)
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
    return [Figure(name=f"burst of {BURST}, succeeded", value=len(took), unit="", bar=BURST, at_least=True, note=note, times=times)]


async def sustained(seconds: float, cwd: Path) -> list[Figure]:
    """Create, run, destroy by a few clients for a while; then what is left of it."""
    run = cold(kernel(), TRUE, cwd)
    await take_turns({"warm up": run}, 1)
    before = Standing.now()
    took: list[float] = []
    failures: list[str] = []
    deadline = time.perf_counter() + seconds

    async def client() -> None:
        while (start := time.perf_counter()) < deadline:
            try:
                await run()
            except Exception as error:  # noqa: BLE001 - any failure is the figure
                failures.append(f"{type(error).__name__}: {error}")
            else:
                took.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    rate = len(took) / (time.perf_counter() - start)
    leaks = Leaks.since(before)
    times = {"create to destroyed": distribution(took)} if took else {}
    note = f"{CLIENTS} clients, {seconds:g} s" + (f"; first failure: {failures[0]}" if failures else "")
    return [
        Figure(name="sustained create + exec + destroy", value=rate, unit="/s", bar=150.0, at_least=True, note=note, times=times),
        Figure(name="sustained: failures", value=len(failures), unit="", bar=0),
        Figure(name="sustained: leaked", value=leaks.total, unit="", bar=0, note=str(leaks)),
        Figure(name="sustained: growth of the host process", value=leaks.resident_kib / 1024, unit="MiB"),
    ]
