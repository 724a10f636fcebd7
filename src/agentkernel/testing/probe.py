"""Compiles the suite's one program (probe.c) and speaks to it inside a sandbox."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agentkernel.abc import Sandbox
from agentkernel.model.command import Command, ExecResult

PROBE_SOURCE = Path(__file__).with_name("probe.c")
PATTERN_BYTES = 251


def compile_static(source: Path, target: Path) -> Path | None:
    """Compiles one C file into a static program; None when this machine has no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    argv = [compiler, "-static", "-Os", "-s", "-pthread", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(source)]
    subprocess.run(argv, check=True, capture_output=True, text=True)
    return target


def stdout_pattern(size: int) -> bytes:
    """What `probe spew SIZE` writes to stdout."""
    return (bytes(range(PATTERN_BYTES)) * (size // PATTERN_BYTES + 1))[:size]


def stderr_pattern(size: int) -> bytes:
    """What `probe spew SIZE` writes to stderr."""
    return (bytes(range(PATTERN_BYTES))[::-1] * (size // PATTERN_BYTES + 1))[:size]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The program, installed at `path` inside a sandbox."""

    sandbox: Sandbox
    path: str

    def command(self, *arguments: str | bytes, timeout_s: float | None = 30) -> Command:
        """The command that runs one verb."""
        encoded = tuple(each.encode() if isinstance(each, str) else each for each in arguments)
        return Command(argv=(self.path.encode(), *encoded), timeout_s=timeout_s)

    async def run(self, *arguments: str | bytes, timeout_s: float | None = 30) -> ExecResult:
        """Runs one verb to its end."""
        return await self.sandbox.exec(self.command(*arguments, timeout_s=timeout_s))

    async def facts(self, *arguments: str | bytes, timeout_s: float | None = 30) -> dict[str, list[int]]:
        """Runs a verb that prints `name number` lines; a name may come more than once."""
        result = await self.run(*arguments, timeout_s=timeout_s)
        assert result.exit_code == 0, result
        found: dict[str, list[int]] = {}
        for line in result.stdout.decode().splitlines():
            name, value = line.split()
            found.setdefault(name, []).append(int(value, 16 if name == "capabilities" else 10))
        return found


async def install(sandbox: Sandbox, binary: Path) -> Probe:
    """Copies the program into HOME by the files interface."""
    path = f"{sandbox.spec.user.home.rstrip('/')}/.probe"
    await sandbox.files.write(path, await asyncio.to_thread(binary.read_bytes), mode=0o755)
    return Probe(sandbox=sandbox, path=path)
