"""Times: of contenders that take turns, and what is told of many of them."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

WARM_UP_ROUNDS = 3
Contender = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Times of one contender, in milliseconds; percentiles by nearest rank."""

    n: int
    p50: float
    p95: float
    p99: float
    best: float
    worst: float


def distribution(samples_s: Sequence[float]) -> Distribution:
    """Summarises at least one time, given in seconds."""
    ordered = sorted(samples_s)
    rank = [ordered[min(len(ordered), math.ceil(len(ordered) * share)) - 1] for share in (0.95, 0.99)]
    values = (median(ordered), *rank, ordered[0], ordered[-1])
    p50, p95, p99, best, worst = (round(1000 * value, 4) for value in values)
    return Distribution(n=len(ordered), p50=p50, p95=p95, p99=p99, best=best, worst=worst)


async def take_turns(contenders: Mapping[str, Contender], rounds: int, *, warm_up: int = WARM_UP_ROUNDS) -> dict[str, list[float]]:
    """Times each contender once per round, so that a busy moment of the machine hits all of them; seconds.

    The `warm_up` rounds before them are not counted: caches fill in these.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-warm_up, rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            await contender()
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    return times
