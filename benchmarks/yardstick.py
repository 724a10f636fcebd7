"""How fast this machine is at this moment: a raw tool's time over the time that it took where the bars were set (docs/adr/0026)."""

from __future__ import annotations

from collections.abc import Sequence

from agentkernel.benchmark.timing import distribution, take_turns
from benchmarks.contenders import bwrap

# p50 in milliseconds beside which the bars in milliseconds and per second were set: two cores, Linux 6.x, a quiet moment.
BWRAP_MS = 2.57  # `bwrap --unshare-all` with the host's /usr, /proc, /dev, /tmp: namespaces, mounts, start and end of a process
SPAWN_MS = 0.321  # posix_spawn of /usr/bin/true from Python, and waiting for it: start and end of a process
ROUNDS = 25


def slowness(p50_ms: float, reference_ms: float) -> float:
    """1.0 where the raw tool is as fast as where the bars were set, or faster; 2.0 where it takes twice as long."""
    return max(1.0, p50_ms / reference_ms)


async def bwrap_s(command: tuple[str, ...]) -> list[float]:
    """Times of the raw tool alone, for figures whose contenders cannot take turns with it: taken before and after them; seconds."""
    return (await take_turns({"bwrap": bwrap(*command)}, ROUNDS))["bwrap"]


def bwrap_slowness(samples_s: Sequence[float]) -> float:
    """From the raw tool's own times."""
    return slowness(distribution(samples_s).p50, BWRAP_MS)
