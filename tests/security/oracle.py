"""The judge: looks at the host before and after a hostile program, and says what it did that it must not do. It believes nothing from inside,
except a program's own word that it got what it wanted."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import stat
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from security.planted import PROTECTED, Planted

from agentkernel.testing.host import HostSnapshot, leftovers, take
from agentkernel.testing.workspace import tree_digest

SETTINGS = (
    "kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "kernel/domainname", "kernel/sysrq", "kernel/panic", "kernel/randomize_va_space",
    "vm/overcommit_memory", "vm/swappiness", "fs/file-max", "net/ipv4/ip_forward", "user/max_user_namespaces", "kernel/unprivileged_bpf_disabled",
)  # fmt: skip
TRACES = (
    "/usr/agentkernel-probe",
    "/usr/bin/agentkernel-probe",
    "/etc/agentkernel-probe",
    "/agentkernel-probe",
    "/tmp/fill",
    "/var/tmp/fill",
    "/dev/shm/fill",
)
SLOWEST_HOST_S = 3.0
MEMORY_GROWTH_BYTES = 96 * 1024 * 1024
CLOCK_STEP_S = 2.0


@dataclass(slots=True, kw_only=True)
class Oracle:
    """One judgement: made before the program runs; then `findings` says everything that went wrong, as sentences."""

    planted: Planted
    directories: Sequence[Path] = ()
    guest: Path | None = None
    before: HostSnapshot = field(init=False)
    facts: dict[str, str] = field(init=False)
    slowest_s: float = 0.0

    def __post_init__(self) -> None:
        self.before = take([Path("/dev/shm"), self.planted.directory, *self.directories])
        self.facts = self._facts()

    async def findings(self, output: bytes, *, shared: Path | None = None, judge: str = "") -> list[str]:
        """What must not be; waits a little for what is only slow to go away."""
        found = await asyncio.to_thread(self._immediate, output)
        found += [
            f"left behind: {each}" for each in await leftovers(self.before, [Path("/dev/shm"), self.planted.directory, *self.directories])
        ]
        if shared is not None:
            found += judge_shared(shared, judge)
        return found

    def _immediate(self, output: bytes) -> list[str]:
        found = []
        if self.planted.secret.encode() in output:
            found.append("the secret came out")
        found += [line.decode(errors="replace") for line in output.splitlines() if line.startswith(b"REACHED:")][:20]
        now = self._facts()
        found += [f"{name} changed from {value!r} to {now.get(name)!r}" for name, value in self.facts.items() if now.get(name) != value]
        if self.planted.victim.poll() is not None:
            found.append("a process of the host was killed")
        if self.slowest_s > SLOWEST_HOST_S:
            found.append(f"the host took {self.slowest_s:.1f} s to run a program")
        return found

    async def host_responds(self) -> None:
        """Runs a program on the host and remembers the slowest answer; called again and again while a bomb runs."""
        started = time.monotonic()
        await asyncio.to_thread(subprocess.run, ["/bin/true"], check=True)
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)

    def _facts(self) -> dict[str, str]:
        facts = {"canary": tree_digest(self.planted.canary), "secret": tree_digest(self.planted.directory / "secret")}
        facts["tools"] = tree_digest(self.planted.tools)
        for name in SETTINGS:
            path = Path("/proc/sys", name)
            facts[name] = path.read_text() if path.exists() and os.access(path, os.R_OK) else "hidden"
        facts["clock"] = f"{round((time.time() - time.monotonic()) / CLOCK_STEP_S)}"
        facts["traces"] = ", ".join(path for path in TRACES if os.path.lexists(path))
        if self.guest is not None:
            facts["guest"] = hashlib.sha256(self.guest.read_bytes()).hexdigest()
        return facts


def judge_shared(directory: Path, judge: str) -> list[str]:
    """Looks at a directory that host and sandbox shared."""
    found = []
    for path in directory.rglob("*"):
        mode = path.lstat().st_mode
        if judge == "modes" and not stat.S_ISLNK(mode) and not stat.S_ISDIR(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            found.append(f"{path.name} on the host has the mode {stat.S_IMODE(mode):o}")
        if (
            judge == "protected"
            and path.is_file()
            and _is_protected(path.relative_to(directory))
            and "owned" in path.read_text(errors="replace")
        ):
            found.append(f"{path.relative_to(directory)} on the host obeys the sandbox")
    return found


def _is_protected(relative: Path) -> bool:
    return any(str(relative) == each or str(relative).startswith(f"{each}/") for each in PROTECTED)


def resident_bytes() -> int:
    """What this process holds in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
