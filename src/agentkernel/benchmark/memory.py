"""What idle sandboxes hold of the host's memory: the processes that came with them, and what this one grew by."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from agentkernel.benchmark.subject import Subject, greet
from agentkernel.errors import Unsupported

SANDBOXES = 10
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Memory of each sandbox, in KiB: the mean of `sandboxes`.

    A service that serves all of them, such as Docker's, was there before and is not in it; nor is what the kernel itself holds.
    """

    sandboxes: int
    processes: float  # how many came with each
    processes_kib: float
    engine_kib: float  # this process's share
    proportional: bool  # pages that processes share count by their share; else, where only root may know that, each time

    @property
    def total_kib(self) -> float:
        """Both together."""
        return self.processes_kib + self.engine_kib


async def held(subject: Subject, sandboxes: int = SANDBOXES) -> Held:
    """Keeps so many idle for a moment. Nothing else may start on this host meanwhile: it would be counted.

    Raises:
        Unsupported: the host does not tell (it has no /proc).
    """
    if not (_PROC / "self" / "smaps_rollup").exists():
        raise Unsupported("this host does not tell what processes hold", hint="memory is measured on Linux alone")
    async with AsyncExitStack() as stack:
        await _idle(stack, subject)  # what is loaded and started once is not the sandboxes'
        strangers, own = _processes(), _resident_kib("self")
        for _ in range(sandboxes):
            await _idle(stack, subject)
        grown = _resident_kib("self") - own
        sizes = [size for pid in _processes() - strangers if (size := _size_kib(pid)) is not None]
    return Held(
        sandboxes=sandboxes,
        processes=len(sizes) / sandboxes,
        processes_kib=sum(kib for kib, _ in sizes) / sandboxes,
        engine_kib=grown / sandboxes,
        proportional=all(exact for _, exact in sizes),
    )


async def _idle(stack: AsyncExitStack, subject: Subject) -> None:
    sandbox, _ = await stack.enter_async_context(subject.sandbox())
    await greet(sandbox)


def _processes() -> set[str]:
    return {entry.name for entry in _PROC.iterdir() if entry.name.isdigit()}


def _size_kib(pid: str) -> tuple[int, bool] | None:
    """What a process holds, and whether shared pages count by their share; None: it has ended, or is the kernel's own."""
    try:
        try:
            return _field_kib((_PROC / pid / "smaps_rollup").read_text(), "Pss"), True
        except PermissionError:
            return _resident_kib(pid), False
    except (FileNotFoundError, ProcessLookupError):
        return None


def _resident_kib(pid: str) -> int:
    return _field_kib((_PROC / pid / "status").read_text(), "VmRSS")


def _field_kib(text: str, name: str) -> int:
    """A field of smaps_rollup or status, see proc(5); 0 where a process that is ending has it no more."""
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:")), 0)
