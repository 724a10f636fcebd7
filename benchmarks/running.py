"""Commands in a running sandbox: by the SDK, in process and through the daemon, and from the pool."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agentkernel import AsyncClient, AsyncSandbox, Client, Sandbox
from agentkernel.benchmark.program import program
from agentkernel.benchmark.timing import Contender, Distribution, distribution, take_turns
from benchmarks.contenders import UnmeasurableError, cold
from benchmarks.figures import Figure
from benchmarks.served import NO_POOLS, PAUSE_S, Served, served
from benchmarks.starting import TRUE
from benchmarks.yardstick import SPAWN_MS, slowness

BAR_MS = 2.0


async def warm_exec(n: int, cwd: Path) -> list[Figure]:
    """`true` in a running sandbox, by each way of the SDK, beside the bare program on the host."""
    del cwd  # a program's sandbox does not show where it was started
    async with served(NO_POOLS) as daemon:
        socket = str(daemon.home / "ak" / "run" / "daemon.sock")
        async with (
            AsyncClient(local=True) as local,
            local.sandbox(backend="namespaces") as here,
            AsyncClient(socket=socket) as remote,
            remote.sandbox(backend="namespaces") as there,
        ):
            with Client(socket=socket) as client, client.sandbox(backend="namespaces") as sync:
                contenders = {"in process": _exec(here), "daemon": _exec(there), "daemon, sync": _exec_sync(sync), "bare": program(TRUE)}
                samples = await take_turns(contenders, n)
    times = {name: distribution(each) for name, each in samples.items()}
    slow = slowness(times["bare"].p50, SPAWN_MS)

    def figure(name: str, contender: str, told: dict[str, Distribution] | None = None) -> Figure:
        return Figure(name=name, value=times[contender].p50, unit="ms", bar=BAR_MS, slowness=slow, times=told or {})

    return [
        figure("exec by the SDK, in process", "in process", times),
        figure("exec by the SDK, through the daemon", "daemon"),
        figure("exec by the SDK, sync, through the daemon", "daemon, sync"),
    ]


def _exec(box: AsyncSandbox) -> Contender:
    async def run() -> None:
        (await box.exec(*TRUE)).check()

    return run


def _exec_sync(box: Sandbox) -> Contender:
    async def run() -> None:
        box.exec(*TRUE, check=True)

    return run


async def pooled(n: int, cwd: Path) -> list[Figure]:
    """Create, run, destroy through the daemon with pauses: with a full pool and without pools, in turns."""
    async with served() as warm, served(NO_POOLS) as without:
        for _ in range(2):
            await cold(warm.door, TRUE, cwd)()
        await warm.with_full_pool()
        contenders = {"pool": _paused(warm, cwd), "no pool": _paused(without, cwd)}
        samples = await take_turns(contenders, n)
        hits = sum(pool.hits for pool in (await warm.status()).pools)
        if hits < n:
            raise UnmeasurableError(f"of {n} sandboxes {hits} came from the pool")
    times = {name: distribution([each - PAUSE_S for each in every]) for name, every in samples.items()}
    ratio = times["pool"].p50 / times["no pool"].p50
    return [
        Figure(name="create + exec + destroy through the daemon, from the pool", value=times["pool"].p50, unit="ms", times=times),
        Figure(name="the same over no pool", value=ratio, unit="x", bar=1.0),
    ]


def _paused(daemon: Served, cwd: Path) -> Contender:
    run = cold(daemon.door, TRUE, cwd)

    async def paused() -> None:
        await run()
        await asyncio.sleep(PAUSE_S)

    return paused
