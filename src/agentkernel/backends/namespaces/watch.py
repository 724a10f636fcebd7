"""Limits that no cgroup enforces here: sampled by the host, and enforced by killing.

Memory where no cgroup is to be had, and the space of storage on disk. Sampling overshoots: what a program can allocate or write in one
interval. Therefore such limits are declared `emulated`, and the disk also keeps a free-space reserve.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agentkernel.backends.namespaces.disk import usage_bytes
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import LimitHit

if TYPE_CHECKING:
    from agentkernel.model.inspection import SandboxStatistics

INTERVAL_S = 0.1
DISK_OVERSHOOT = 1.5  # many short commands can each write between two samples: beyond this share of the limit the sandbox ends
FREE_SPACE_RESERVE_BYTES = 512 * 1024 * 1024
PATIENCE_SAMPLES = 5  # still exceeding it so many samples after killing the commands: the whole sandbox ends


class Watched(Protocol):
    """What the watch needs of a sandbox."""

    async def statistics(self) -> SandboxStatistics: ...

    async def kill_commands(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledLimits:
    """What is sampled; None: not this one."""

    memory_bytes: int | None = None
    disk_bytes: int | None = None
    data: Path | None = None

    @property
    def any(self) -> bool:
        """Whether there is anything to watch."""
        return self.memory_bytes is not None or self.disk_bytes is not None


class LimitWatch:
    """One task per sandbox that has sampled limits; owned by the boundary."""

    def __init__(self, limits: SampledLimits, first_process: int) -> None:
        """`first_process` is a pidfd; the watch ends the sandbox through it when killing commands does not help."""
        self._limits = limits
        self._pidfd = first_process
        self._hits: set[LimitHit] = set()
        self._task: asyncio.Task[None] | None = None
        self._used_bytes = 0

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
                if above > PATIENCE_SAMPLES or self._is_far_over():
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                    return
                await sandbox.kill_commands()
            except AgentKernelError:
                return  # the sandbox is gone; whoever uses it learns it from the channel

    def _is_far_over(self) -> bool:
        limit = self._limits.disk_bytes
        return limit is not None and self._used_bytes > limit * DISK_OVERSHOOT

    async def _sample(self, sandbox: Watched) -> set[LimitHit]:
        exceeded = set()
        limits = self._limits
        if limits.memory_bytes is not None and (await sandbox.statistics()).rss_bytes > limits.memory_bytes:
            exceeded.add(LimitHit.MEMORY)
        if limits.disk_bytes is not None and limits.data is not None and await self._disk_is_exceeded(limits.data, limits.disk_bytes):
            exceeded.add(LimitHit.DISK)
        return exceeded

    async def _disk_is_exceeded(self, data: Path, limit_bytes: int) -> bool:
        """Only while the usage grows: what is above the limit stays above it until somebody removes files, which must be possible."""
        free = os.statvfs(data)
        used = await asyncio.to_thread(usage_bytes, data)
        grows, self._used_bytes = used > self._used_bytes, used
        return grows and (used > limit_bytes or free.f_bavail * free.f_frsize < FREE_SPACE_RESERVE_BYTES)
