"""How long the parts of a sandbox's life take, one sandbox after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from agentkernel.benchmark.subject import Subject, greet
from agentkernel.benchmark.timing import Distribution, distribution

SEQUENTIAL = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """From the question for a sandbox to its last trace. `boot` and `ready` both count from the question, and so does `total`."""

    boot: Distribution  # the sandbox is built
    ready: Distribution  # its agent has answered
    exec: Distribution  # a first command, from then to its result
    shutdown: Distribution  # until nothing of it is left
    total: Distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Execs:
    """Commands one after the other in one running sandbox."""

    each: Distribution
    per_second: float


async def life(subject: Subject, rounds: int) -> Life:
    """Builds, greets and removes one sandbox in each round, and one before that does not count."""
    lives = [await _one(subject) for _ in range(rounds + 1)][1:]
    boot, ready, run, shutdown, total = (distribution(times) for times in zip(*lives, strict=True))
    return Life(boot=boot, ready=ready, exec=run, shutdown=shutdown, total=total)


async def _one(subject: Subject) -> Sequence[float]:
    """Boot, ready, exec, shutdown and total in seconds."""
    asked = time.perf_counter()
    async with subject.sandbox() as (sandbox, _):
        built = time.perf_counter()
        await sandbox.statistics()
        answered = time.perf_counter()
        await greet(sandbox)
        greeted = time.perf_counter()
    gone = time.perf_counter()
    return built - asked, answered - asked, greeted - answered, gone - greeted, gone - asked


async def execs(subject: Subject, count: int = SEQUENTIAL) -> Execs:
    """Greets so often in one sandbox."""
    times = []
    async with subject.sandbox() as (sandbox, _):
        await greet(sandbox)
        begun = time.perf_counter()
        for _ in range(count):
            start = time.perf_counter()
            await greet(sandbox)
            times.append(time.perf_counter() - start)
        took_s = time.perf_counter() - begun
    return Execs(each=distribution(times), per_second=count / took_s)
