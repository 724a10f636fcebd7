"""Cold sandboxes: create, run, destroy, through the API in process."""

from __future__ import annotations

from pathlib import Path

from agentkernel.benchmark.program import program
from agentkernel.benchmark.timing import distribution, take_turns
from benchmarks.contenders import bwrap, cold, kernel, static_program
from benchmarks.figures import Figure
from benchmarks.yardstick import BWRAP_MS, slowness

TRUE = ("/usr/bin/true",)


async def cold_dynamic(n: int, cwd: Path) -> list[Figure]:
    """Create, run /usr/bin/true, destroy; beside bwrap."""
    return await _cold("true", TRUE, n, cwd)


async def cold_static(n: int, cwd: Path) -> list[Figure]:
    """The same with a program that has no dynamic loader."""
    return await _cold("static program", static_program(), n, cwd)


async def _cold(what: str, argv: tuple[str, ...], n: int, cwd: Path) -> list[Figure]:
    samples = await take_turns({"agentkernel": cold(kernel(), argv, cwd), "bwrap": bwrap(*argv), "bare": program(argv)}, n)
    times = {name: distribution(each) for name, each in samples.items()}
    ours, raw = times["agentkernel"].p50, times["bwrap"].p50
    slow = slowness(raw, BWRAP_MS)
    return [
        Figure(name=f"cold create + exec + destroy, {what}", value=ours, unit="ms", bar=8.0, slowness=slow, times=times),
        Figure(name=f"cold over bwrap --unshare-all, {what}", value=ours / raw, unit="x", bar=3.5),
    ]
