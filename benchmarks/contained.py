"""Backends beside the raw tools that they are built on: docker, podman, gVisor, and namespaces where a promise says so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agentkernel import AsyncClient, AsyncSandbox
from agentkernel.benchmark.memory import held
from agentkernel.benchmark.program import program
from agentkernel.benchmark.timing import Contender, distribution, take_turns
from agentkernel.benchmark.work import costs
from benchmarks.capacity import burst_of
from benchmarks.contenders import command_line
from benchmarks.engines import raw
from benchmarks.figures import Figure
from benchmarks.places import BACKENDS, ENGINES, HELLO, Place, in_each
from benchmarks.served import NO_POOLS, PAUSE_S, Served, served
from benchmarks.starting import TRUE
from benchmarks.yardstick import SPAWN_MS, slowness

FASTER = 20.0  # than the engine's own exec
RUN_SHARE = 0.2  # of `docker run --rm --network none`
EXEC_BARS_MS = {"namespaces": 2.0, "gvisor": 8.0, "docker": 2.0, "podman": 2.0}


async def exec_each(n: int, cwd: Path) -> list[Figure]:
    """`true` in a running sandbox by the SDK, beside the engine's own exec in a running container."""
    del cwd

    async def measured(here: Place) -> list[Figure]:
        async with served(NO_POOLS) as daemon, _boxes(here, daemon) as boxes:
            contenders = {name: _exec(box) for name, box in boxes.items()} | {"bare": program(TRUE)}
            if here.engine is None:
                return _exec_figures(here, await take_turns(contenders, n))
            with here.engine.container() as container:
                return _exec_figures(here, await take_turns(contenders | {_exec_tool(here): here.engine.exec(container, "true")}, n))

    return await in_each("exec", ("gvisor", *ENGINES), measured)


@contextlib.asynccontextmanager
async def _boxes(here: Place, daemon: Served) -> AsyncIterator[dict[str, AsyncSandbox]]:
    """A running sandbox by each way of the SDK, and where an engine is compared one of namespaces."""
    socket = str(daemon.home / "ak" / "run" / "daemon.sock")
    image: dict[str, Any] = {} if here.image is None else {"image": here.image}
    async with contextlib.AsyncExitStack() as stack:
        local = await stack.enter_async_context(AsyncClient(local=True))
        remote = await stack.enter_async_context(AsyncClient(socket=socket))
        boxes = {
            "in process": await stack.enter_async_context(local.sandbox(backend=here.backend, **image)),
            "daemon": await stack.enter_async_context(remote.sandbox(backend=here.backend, **image)),
        }
        if here.engine is not None:
            boxes["namespaces"] = await stack.enter_async_context(local.sandbox(backend="namespaces"))
        yield boxes


def _exec(box: AsyncSandbox) -> Contender:
    async def run() -> None:
        (await box.exec("true")).check()

    return run


def _exec_tool(here: Place) -> str:
    return f"{here.backend} exec"


def _exec_figures(here: Place, samples: dict[str, list[float]]) -> list[Figure]:
    times = {name: distribution(each) for name, each in samples.items()}
    slow = slowness(times["bare"].p50, SPAWN_MS)
    name, bar = here.backend, EXEC_BARS_MS[here.backend]
    figures = [
        Figure(name=f"exec, {name}, {way}", value=times[way].p50, unit="ms", bar=bar, slowness=slow, times=told)
        for way, told in (("in process", times), ("daemon", {}))
    ]
    if here.engine is not None:
        for ours in ("in process", "daemon", "namespaces"):
            what = f"{name}, {ours}" if ours != "namespaces" else ours
            faster = times[_exec_tool(here)].p50 / times[ours].p50
            figures.append(Figure(name=f"{_exec_tool(here)} over exec, {what}", value=faster, unit="x", bar=FASTER, at_least=True))
    return figures


async def cold_each(n: int, cwd: Path) -> list[Figure]:
    """Create, run, destroy in process, beside the raw tool."""

    async def measured(here: Place) -> list[Figure]:
        tools = here.starting()
        samples = await take_turns({"agentkernel": here.cold(None, cwd)} | tools, n)
        times = {name: distribution(each) for name, each in samples.items()}
        ours, tool = times["agentkernel"].p50, next(iter(tools))
        return [
            Figure(name=f"create + exec + destroy, {here.backend}", value=ours, unit="ms", times=times),
            Figure(name=f"the same over `{tool}`", value=ours / times[tool].p50, unit="x"),
        ]

    return await in_each("create + exec + destroy", BACKENDS, measured)


async def run_each(n: int, cwd: Path) -> list[Figure]:
    """`agentkernel run -- echo hello` as whole processes, from the pool and without pools, in turns with `docker run --rm`.

    The pool is full again before anybody else's turn: Docker is not timed while sandboxes are being made.
    """
    with raw("docker") as docker:

        async def measured(here: Place) -> list[Figure]:
            async with served() as warm, served(NO_POOLS) as without:
                pooled = _run(here, warm, cwd)
                for _ in range(2):
                    await pooled()
                contenders = {
                    "pool": pooled,
                    "refill": warm.with_full_pool,
                    "no pool": _run(here, without, cwd),
                    "docker run": docker.run(*HELLO),
                }
                samples = await take_turns(contenders, n)
            times = {name: distribution(each) for name, each in samples.items() if name != "refill"}
            raw_ms = times["docker run"].p50
            return [
                Figure(name=f"run -- echo hello, {here.backend}, from the pool", value=times["pool"].p50, unit="ms", times=times),
                Figure(name="the same over docker run --rm --network none", value=times["pool"].p50 / raw_ms, unit="x", bar=RUN_SHARE),
                Figure(name=f"run -- echo hello, {here.backend}, no pool, over docker run", value=times["no pool"].p50 / raw_ms, unit="x"),
            ]

        return await in_each("run -- echo hello", BACKENDS, measured)


def _run(here: Place, daemon: Served, cwd: Path) -> Contender:
    image = () if here.image is None else ("--image", here.image)
    argv = (command_line(), "run", "--quiet", "--backend", here.backend, *image, "--", *HELLO)
    return program(argv, daemon.environment, cwd)


async def burst_each(n: int, cwd: Path) -> list[Figure]:
    """A hundred sandboxes at once, each with a first command, in process and through the daemon."""
    del n

    async def measured(here: Place) -> list[Figure]:
        async with served() as daemon:
            return [
                await burst_of(f"{here.backend}, in process", here.cold(None, cwd)),
                await burst_of(f"{here.backend}, daemon", here.cold(daemon, cwd)),
            ]

    return await in_each("burst", BACKENDS, measured)


async def pool_each(n: int, cwd: Path) -> list[Figure]:
    """Pools: how long the first filling takes and what it costs the machine, and how often one is there for who asks."""

    async def measured(here: Place) -> list[Figure]:
        async with served() as daemon:
            run = here.cold(daemon, cwd)
            for _ in range(2):  # with the second one a pool begins
                await run()
            begun, busy_s = time.perf_counter(), _busy_s()
            await daemon.with_full_pool()
            filled_s, busy_s = time.perf_counter() - begun, _busy_s() - busy_s
            made = sum(pool.ready for pool in (await daemon.status()).pools)
            figures = [
                Figure(name=f"pool, {here.backend}: filled after", value=1000 * filled_s, unit="ms", note=f"{made} sandboxes"),
                Figure(name="processor time for each of them", value=1000 * busy_s / made, unit="ms", note="of all that ran meanwhile"),
            ]
            for pace, pause_s in (("with pauses", PAUSE_S), ("without", 0.0)):
                await daemon.with_full_pool()
                figures.append(await _hits(f"its hits, {pace}", daemon, run, n, pause_s))
            return figures

    return await in_each("pool", BACKENDS, measured)


async def _hits(name: str, daemon: Served, run: Contender, n: int, pause_s: float) -> Figure:
    before = (await daemon.status()).pools
    times = []
    for _ in range(n):
        start = time.perf_counter()
        await run()
        times.append(time.perf_counter() - start)
        await asyncio.sleep(pause_s)
    after = (await daemon.status()).pools
    hits = sum(pool.hits for pool in after) - sum(pool.hits for pool in before)
    note = f"of {n} sandboxes, {1000 * pause_s:g} ms between them"
    return Figure(name=name, value=100 * hits / n, unit="%", note=note, times={"create to destroyed": distribution(times)})


def _busy_s() -> float:
    """What the processors have worked since the start, together: neither idle nor waiting for disks, see proc(5)."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _idle, _waiting, irq, softirq = map(int, words[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


async def memory_each(n: int, cwd: Path) -> list[Figure]:
    """What each idle sandbox holds, whatever process of it that is in."""
    del n

    async def measured(here: Place) -> list[Figure]:
        found = await held(here.subject(cwd))
        note = f"{found.processes:g} processes {found.processes_kib:.0f} KiB, engine {found.engine_kib:.0f} KiB; mean of {found.sandboxes}"
        return [Figure(name=f"memory per idle sandbox, {here.backend}", value=found.total_kib / 1024, unit="MiB", note=note)]

    return await in_each("memory", BACKENDS, measured)


async def cost_each(n: int, cwd: Path) -> list[Figure]:
    """Work inside, times as long as on the host by the same programs."""

    async def measured(here: Place) -> list[Figure]:
        return [
            Figure(
                name=f"work inside, {here.backend}: {each.work}",
                value=each.ratio,
                unit="x",
                times={"inside": each.inside} | ({"host": each.host} if each.host is not None else {}),
            )
            for each in await costs(here.subject(cwd), n)
        ]

    return await in_each("work inside", BACKENDS, measured)
