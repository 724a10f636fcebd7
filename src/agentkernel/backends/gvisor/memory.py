"""How much memory the processes of a sandbox use, as its cgroup tells it.

A group's own limit would end gVisor's kernel, and with it everything. So the limit of the processes is sampled, and the group's stands
above it, by what the sandbox's files in memory and the kernel itself may take: whoever gets that far ends as a whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from agentkernel.model.spec import Resources, SandboxSpec, StorageKind

OVERHEAD_BYTES = 256 * 1024 * 1024  # gVisor's kernel and file server, and what is allocated between two samples
_THREADS_BESIDE = 512  # of gVisor itself; each thread inside is one of the host's, too
_COUNTED = {1: (b"rss", b"shmem"), 2: (b"anon", b"shmem")}  # of memory.stat, by version; gVisor's memory is that of a file in memory


def group_limits(spec: SandboxSpec, storage_bytes: int) -> Resources:
    """What the sandbox's group is limited to."""
    limits = spec.resources
    files = storage_bytes if spec.storage is StorageKind.MEMORY else 0
    return Resources(
        memory_bytes=None if limits.memory_bytes is None else limits.memory_bytes + files + OVERHEAD_BYTES,
        cpus=limits.cpus,
        pids=None if limits.pids is None else 2 * limits.pids + _THREADS_BESIDE,
        disk_bytes=limits.disk_bytes,
        open_files=limits.open_files,
    )


def storage_bytes(spec: SandboxSpec) -> int:
    """Storage in memory is memory: its size may not exceed that limit."""
    disk, memory = spec.resources.disk_bytes, spec.resources.memory_bytes
    return disk if memory is None else min(disk, memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGauge:
    """Reads a memory group, less what is no process of the sandbox's."""

    version: int
    directory: str
    files: str = ""  # the sandbox's storage in memory, as its first process has it; empty: it is on disk
    baseline_bytes: int = 0

    def used(self) -> int:
        """In bytes; 0 once the sandbox is gone."""
        try:
            return max(0, self.total() - self.baseline_bytes)
        except OSError:
            return 0

    def total(self) -> int:
        """What gVisor's kernel and the processes in it use together; raises OSError."""
        counted = dict.fromkeys(_COUNTED[self.version], 0)
        with open(f"{self.directory}/memory.stat", "rb") as file:
            for line in file:
                name, _, value = line.partition(b" ")
                if name in counted:
                    counted[name] = int(value)
        return sum(counted.values()) - self._files_bytes()

    def _files_bytes(self) -> int:
        if not self.files:
            return 0
        found = os.statvfs(self.files)
        return (found.f_blocks - found.f_bfree) * found.f_frsize
