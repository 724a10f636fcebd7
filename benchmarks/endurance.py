"""Long runs: a sustained stream of sandboxes with its leaks, in process and through the daemon, and thousands of create and remove."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from agentkernel.abc import Kernel
from agentkernel.benchmark.timing import Contender, distribution, take_turns
from agentkernel.model.record import CreateOptions
from agentkernel.model.request import SandboxRequest
from benchmarks.contenders import CALLER, cold, kernel
from benchmarks.figures import Figure
from benchmarks.host import Leaks, Standing, resident_kib
from benchmarks.served import PASSING_POOLS, served
from benchmarks.starting import TRUE
from benchmarks.yardstick import bwrap_s, bwrap_slowness

CLIENTS = 4
BAR_PER_S = 150.0
CYCLES = 10_000
SAMPLE_EVERY = 100
SLOPE_BAR_KIB = 100.0  # for 1,000 cycles


async def sustained(seconds: float, cwd: Path) -> list[Figure]:
    """Create, run, destroy by a few clients for a while, in process; then what is left of it."""
    run = cold(kernel(), TRUE, cwd)
    await take_turns({"warm up": run}, 1)
    before = Standing.now()
    load = await _load(run, seconds)
    return load.figures("sustained", seconds, Leaks.since(before))


async def sustained_daemon(seconds: float, cwd: Path) -> list[Figure]:
    """The same through the daemon, with its pools, which have ended before what is left is counted."""
    async with served(PASSING_POOLS) as daemon, daemon.runs(TRUE, cwd) as run:
        await take_turns({"warm up": run}, 1)
        await daemon.without_pools()
        before = daemon.standing()
        load = await _load(run, seconds)
        return load.figures("sustained, daemon", seconds, await daemon.leaks(before))


async def sustained_sdk(seconds: float, cwd: Path) -> list[Figure]:
    """The same by blocks of the SDK through the daemon: three questions for each sandbox in place of one."""
    async with served(PASSING_POOLS) as daemon:
        run = cold(daemon.door, TRUE, cwd)
        await take_turns({"warm up": run}, 1)
        return [replace((await _load(run, seconds)).rate("sustained, SDK blocks through the daemon", seconds), bar=None, slowness=1.0)]


class _Load:
    """What a number of clients did."""

    def __init__(self) -> None:
        self.raw: list[float] = []  # of bwrap, before and after
        self.took: list[float] = []
        self.failures: list[str] = []
        self.wall_s = 0.0

    def rate(self, name: str, seconds: float) -> Figure:
        times = {"create to destroyed": distribution(self.took)} if self.took else {}
        note = f"{CLIENTS} clients, {seconds:g} s" + (f"; first failure: {self.failures[0]}" if self.failures else "")
        value = len(self.took) / self.wall_s
        times["bwrap, before and after"] = distribution(self.raw)
        return Figure(
            name=f"{name}: create + exec + destroy",
            value=value,
            unit="/s",
            bar=BAR_PER_S,
            at_least=True,
            slowness=bwrap_slowness(self.raw),
            note=note,
            times=times,
        )

    def figures(self, name: str, seconds: float, leaks: Leaks) -> list[Figure]:
        return [
            self.rate(name, seconds),
            Figure(name=f"{name}: failures", value=len(self.failures), unit="", bar=0),
            Figure(name=f"{name}: leaked", value=leaks.total, unit="", bar=0, note=str(leaks)),
            Figure(name=f"{name}: growth of the process", value=leaks.resident_kib / 1024, unit="MiB"),
        ]


async def _load(run: Contender, seconds: float) -> _Load:
    load = _Load()
    load.raw += await bwrap_s(TRUE)
    deadline = time.perf_counter() + seconds

    async def client() -> None:
        while (start := time.perf_counter()) < deadline:
            try:
                await run()
            except Exception as error:  # noqa: BLE001 - any failure is the figure
                load.failures.append(f"{type(error).__name__}: {error}")
            else:
                load.took.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    load.wall_s = time.perf_counter() - start
    load.raw += await bwrap_s(TRUE)
    return load


async def cycles(n: int, cwd: Path) -> list[Figure]:
    """Lasting sandboxes created and removed by a few clients, and how the daemon's memory grows with their number."""
    async with served(PASSING_POOLS) as daemon:
        await _cycle(daemon.door, cwd)
        await daemon.without_pools()
        before = daemon.standing()
        begun = ended = 0
        points: list[tuple[int, int]] = []

        async def client() -> None:
            nonlocal begun, ended
            while begun < n:
                begun += 1
                await _cycle(daemon.door, cwd)
                ended += 1
                if ended % SAMPLE_EVERY == 0:
                    points.append((ended, resident_kib(daemon.pid)))

        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        rate = n / (time.perf_counter() - start)
        leaks = await daemon.leaks(before)
    settled = points[len(points) // 4 :]  # caches have filled
    value = 1000 * _slope(settled) if len(settled) > 1 else None
    note = f"{n} cycles, {rate:.0f} per second, from {before.resident_kib / 1024:.1f} to {points[-1][1] / 1024:.1f} MiB" if points else ""
    return [
        Figure(name="growth of the daemon for 1,000 create + remove", value=value, unit="KiB", bar=SLOPE_BAR_KIB, note=note),
        Figure(name="create + remove: leaked", value=leaks.total, unit="", bar=0, note=str(leaks)),
    ]


async def _cycle(door: Kernel, cwd: Path) -> None:
    made = await door.create(CALLER, SandboxRequest(cwd=str(cwd), backend="namespaces"), CreateOptions(start=True))
    await door.remove(CALLER, made.sandbox_id, force=True)


def _slope(points: list[tuple[int, int]]) -> float:
    """Of the line through the points with the least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
