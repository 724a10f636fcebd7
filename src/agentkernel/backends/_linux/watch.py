"""Limits that no cgroup enforces here: sampled by the host, and enforced by killing.

Memory where no cgroup is to be had, and the space of storage on disk. Sampling overshoots: what a program can allocate or write in one
interval. Therefore such limits are declared `emulated`, and the disk also keeps a free-space reserve.

Summing up a tree costs as much as the tree has files, so it is done when the file system's free space tells that somebody wrote, and else
only now and then: a sandbox in which nothing happens costs one system call per interval.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agentkernel.backends._linux.disk import usage_bytes
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import LimitHit
from agentkernel.units import format_size

if TYPE_CHECKING:
    from agentkernel.model.inspection import SandboxStatistics

INTERVAL_S = 0.1
DISK_OVERSHOOT = 1.5  # many short commands can each write between two samples: beyond this share of the limit the sandbox ends
FREE_SPACE_RESERVE_BYTES = 512 * 1024 * 1024
UNPROMPTED_S = 5.0  # free space that others make hides what is written; so the tree is summed up anyway, this often
UNPROMPTED_SHARE = 20  # but at most for one part in so many of the time
NOTICED_SHARE = 8  # of what is left of the limit: written by whomever, it is reason to look
NOTICED_BYTES = 1024 * 1024
PATIENCE_SAMPLES = 5  # still exceeding it so many samples after killing the commands: the whole sandbox ends


class Watched(Protocol):
    """What the watch needs of a sandbox."""

    async def statistics(self) -> SandboxStatistics: ...

    async def kill_commands(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledLimits:
    """What is sampled; None: not this one."""

    memory_bytes: int | None = None
    memory_used: Callable[[], int] | None = None  # None: asked of the sandbox
    disk_bytes: int | None = None
    data: Path | None = None

    @property
    def any(self) -> bool:
        """Whether there is anything to watch."""
        return self.memory_bytes is not None or self.disk_bytes is not None


class DiskGauge:
    """How much a tree takes, and whether it takes more than its limit."""

    def __init__(self, data: Path, limit_bytes: int, *, resumed: bool) -> None:
        """`resumed`: there are files already; what they take above the limit is no news."""
        self._data = data
        self._limit_bytes = limit_bytes
        self._first_bytes: int | None = None if resumed else 0
        self._used_bytes = 0
        self._free_bytes = 0
        self._due_at = 0.0

    @property
    def reason(self) -> str:
        """Why a sandbox that exceeds it is ended."""
        if self._used_bytes > self._limit_bytes:
            return f"its own files went over their limit of {format_size(self._limit_bytes)} (--disk allows more)"
        return f"it went on writing with less than {format_size(FREE_SPACE_RESERVE_BYTES)} left on the host's disk"

    @property
    def is_far_over(self) -> bool:
        """Whether the sandbox must end at once."""
        return self._used_bytes > max(self._limit_bytes, self._first_bytes or 0) * DISK_OVERSHOOT

    async def is_exceeded(self) -> bool:
        """Only while the usage grows: what is above the limit stays above it until somebody removes files, which must be possible."""
        found = os.statvfs(self._data)
        free = found.f_bavail * found.f_frsize
        noticed = max(NOTICED_BYTES, (self._limit_bytes - self._used_bytes) // NOTICED_SHARE)
        started = time.monotonic()
        if started < self._due_at and self._free_bytes - free < noticed:
            return False
        before, self._used_bytes = self._used_bytes, await asyncio.to_thread(usage_bytes, self._data)
        self._free_bytes, ended = free, time.monotonic()
        self._due_at = ended + max(UNPROMPTED_S, UNPROMPTED_SHARE * (ended - started))
        if self._first_bytes is None:
            self._first_bytes = before = self._used_bytes
        exceeded = self._used_bytes > before and (self._used_bytes > self._limit_bytes or free < FREE_SPACE_RESERVE_BYTES)
        if exceeded:
            self._due_at = 0.0
        return exceeded


class LimitWatch:
    """One task per sandbox that has sampled limits; owned by the boundary."""

    def __init__(self, limits: SampledLimits, first_process: int, *, resumed: bool = False) -> None:
        """`first_process` is a pidfd; the watch ends the sandbox through it when killing commands does not help."""
        self._memory_bytes = limits.memory_bytes
        self._memory_used = limits.memory_used
        self._disk: DiskGauge | None = None
        if limits.disk_bytes is not None and limits.data is not None:
            self._disk = DiskGauge(limits.data, limits.disk_bytes, resumed=resumed)
        self._pidfd = first_process
        self.reason = ""  # why the watch has ended the sandbox; empty: it has not
        self._hits: set[LimitHit] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self, sandbox: Watched) -> None:
        """Begins to sample."""
        self._task = asyncio.create_task(self._run(sandbox))

    async def stop(self) -> None:
        """Ends the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def hits(self) -> tuple[LimitHit, ...]:
        """Which limits were exceeded since the last call."""
        hits, self._hits = tuple(sorted(self._hits)), set()
        return hits

    async def _run(self, sandbox: Watched) -> None:
        above = 0
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                exceeded = await self._sample(sandbox)
                above = above + 1 if exceeded else 0
                if not exceeded:
                    continue
                self._hits |= exceeded
                if above > PATIENCE_SAMPLES or (self._disk is not None and self._disk.is_far_over):
                    self.reason = self._why(exceeded)
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                    return
                await sandbox.kill_commands()
            except AgentKernelError:
                return  # the sandbox is gone; whoever uses it learns it from the channel

    def _why(self, exceeded: set[LimitHit]) -> str:
        if self._disk is not None and LimitHit.DISK in exceeded:
            return self._disk.reason
        return f"its processes went over their memory limit of {format_size(self._memory_bytes or 0)} (--memory allows more)"

    async def _sample(self, sandbox: Watched) -> set[LimitHit]:
        exceeded = set()
        if self._memory_bytes is not None:
            used = self._memory_used() if self._memory_used is not None else (await sandbox.statistics()).rss_bytes
            if used > self._memory_bytes:
                exceeded.add(LimitHit.MEMORY)
        if self._disk is not None and await self._disk.is_exceeded():
            exceeded.add(LimitHit.DISK)
        return exceeded
