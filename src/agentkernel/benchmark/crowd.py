"""Many sandboxes at the same time: all of them live at once, and a command runs in all of them at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agentkernel.benchmark.subject import Subject, greet

SIZES = (10, 50, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """How a number of sandboxes fared; the times are of all of them together."""

    wanted: int
    succeeded: int  # were built, ran both commands and were removed
    boot_s: float  # until each has run a first command
    exec_s: float  # then a command in each
    shutdown_s: float  # then until nothing is left
    failure: str = ""  # what the first that failed said


class _Meeting:
    """Where all wait for each other; who cannot come says so by `arrive`."""

    def __init__(self, parties: int) -> None:
        self._missing = parties
        self._complete = asyncio.Event()
        self.at = 0.0  # when the last one came

    def arrive(self) -> None:
        self._missing -= 1
        if not self._missing:
            self.at = time.perf_counter()
            self._complete.set()

    async def everyone(self) -> None:
        self.arrive()
        await self._complete.wait()


async def crowd(subject: Subject, wanted: int) -> Crowd:
    """Has so many sandboxes at once; one that fails is counted, and the others go on without it."""
    built, greeted = _Meeting(wanted), _Meeting(wanted)
    begun = time.perf_counter()
    ends = await asyncio.gather(*(_member(subject, (built, greeted)) for _ in range(wanted)), return_exceptions=True)
    ended = time.perf_counter()
    failures = [end for end in ends if end is not None]
    for failure in failures:
        if not isinstance(failure, Exception):
            raise failure
    return Crowd(
        wanted=wanted,
        succeeded=wanted - len(failures),
        boot_s=built.at - begun,
        exec_s=greeted.at - built.at,
        shutdown_s=ended - greeted.at,
        failure=f"{type(failures[0]).__name__}: {failures[0]}" if failures else "",
    )


async def _member(subject: Subject, meetings: Sequence[_Meeting]) -> None:
    ahead = list(meetings)
    try:
        async with subject.sandbox() as (sandbox, _):
            while ahead:
                await greet(sandbox)
                await ahead.pop(0).everyone()
    finally:
        for meeting in ahead:
            meeting.arrive()
