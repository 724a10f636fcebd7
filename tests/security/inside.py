"""Runs a hostile program in a sandbox and collects everything that the oracle, the files interface and a neighbour have to say."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from security.catalogue import Program
from security.guard import is_limited
from security.oracle import MEMORY_GROWTH_BYTES, Oracle, resident_bytes
from security.planted import PROTECTED, Planted, plant_project

from agentkernel.abc import Backend, Sandbox
from agentkernel.errors import AgentKernelError, FileOperationFailed, OutputTooLarge, TimedOut
from agentkernel.model.command import Command, TerminalSize
from agentkernel.model.spec import Bind, Resources, SandboxSpec, Workspace, WorkspaceMode
from agentkernel.testing.base import scratch
from agentkernel.testing.host import descendants

MIB = 1024 * 1024
TOOLS = "/mnt/tools"
OUTPUT_LIMIT = MIB
RACES = 1500
SLOWEST_NEIGHBOUR_S = 3.0
ALIVE = Command(argv=(b"sh", b"-c", b"echo alive"), timeout_s=20)
LIMITS = Resources(memory_bytes=128 * MIB, pids=64, disk_bytes=64 * MIB, cpus=1.0)


@dataclass(slots=True, kw_only=True)
class Attack:
    """One program against one backend."""

    program: Program
    planted: Planted
    backend: Backend
    base: SandboxSpec
    oracle: Oracle
    output: bytes = b""

    async def run(self) -> list[str]:
        """Returns all findings; empty means that the claim holds."""
        shared = self._shared()
        before = resident_bytes()
        async with self._neighbour() as neighbour:
            sandbox = await self.backend.create(self._spec(shared))
            try:
                found = await self._attack(sandbox, neighbour)
                found += await self._still_usable(sandbox)
                if resident_bytes() - before > MEMORY_GROWTH_BYTES:
                    found.append(f"the host's side grew by {(resident_bytes() - before) // MIB} MiB")
            finally:
                found_at_end = await self._destroy(sandbox)
        judged = await self.oracle.findings(self.output, shared=shared, judge=self.program.judge)
        if self.program.workspace == "copy-on-write" and shared is not None and (shared / "kept").read_text() != "kept\n":
            judged.append("the shared directory changed")
        return found + found_at_end + judged

    def _shared(self) -> Path | None:
        if self.program.workspace == "none":
            return None
        empty = self.program.workspace == "writable-empty"
        shared = self.planted.empty_project if empty else self.planted.project
        plant_project(shared, hooks=not empty)
        return shared

    def _spec(self, shared: Path | None) -> SandboxSpec:
        mounts = (*self.base.mounts, Bind(source=str(self.planted.tools), target=TOOLS))
        workspace = self.base.workspace
        if shared is not None:
            mode = WorkspaceMode.COPY_ON_WRITE if self.program.workspace == "copy-on-write" else WorkspaceMode.WRITABLE
            protected = PROTECTED if mode is WorkspaceMode.WRITABLE else ()
            workspace = Workspace(mode=mode, source=str(shared), protected=protected)
        return replace(self.base, resources=LIMITS, mounts=mounts, workspace=workspace)

    def _command(self, sandbox: Sandbox) -> Command:
        tools = {"AK_SETUID": f"{TOOLS}/hostile-setuid", "AK_FILECAP": f"{TOOLS}/hostile-capable"}
        named = {**self.planted.environment, **tools, "AK_WORK": scratch(sandbox), "AK_INSIDE": "1"}
        program = self.program
        argv = (f"{TOOLS}/hostile", program.name) if program.compiled else ("sh", f"{sandbox.spec.user.home}/program.sh")
        return Command(
            argv=tuple(word.encode() for word in argv),
            environment={name.encode(): value.encode() for name, value in named.items()},
            terminal=TerminalSize(rows=24, columns=80) if program.terminal else None,
            timeout_s=program.timeout_s,
            output_limit_bytes=OUTPUT_LIMIT,
        )

    async def _attack(self, sandbox: Sandbox, neighbour: Sandbox | None) -> list[str]:
        if not self.program.compiled:
            await sandbox.files.write(f"{sandbox.spec.user.home}/program.sh", self.program.path.read_bytes(), mode=0o755)
        if self.program.race:
            return await self._raced(sandbox)
        running = asyncio.create_task(self._exec(sandbox))
        found = await self._meanwhile(running, neighbour)
        found += await running
        for operation, target in self.program.then:
            found += await self._operate(sandbox, operation, f"{scratch(sandbox)}/{target}")
        return found

    async def _exec(self, sandbox: Sandbox) -> list[str]:
        started = time.monotonic()
        try:
            result = await sandbox.exec(self._command(sandbox))
            self.output += result.stdout + result.stderr
        except TimedOut:
            pass
        except AgentKernelError as error:
            self.output += str(error).encode()
        late = time.monotonic() - started - self.program.timeout_s
        return [f"the deadline was missed by {late:.1f} s"] if late > 5 else []

    async def _meanwhile(self, running: asyncio.Task[list[str]], neighbour: Sandbox | None) -> list[str]:
        """Measures the host and the neighbour as long as a bomb runs."""
        slowest = 0.0
        found: list[str] = []
        if not (neighbour or self.program.during):
            return found
        await asyncio.sleep(0.5)
        if self.program.during and not await asyncio.to_thread(DURING[self.program.during]):
            found.append(f"the host has no {self.program.during} left")
        while neighbour and not running.done():
            await self.oracle.host_responds()
            started = time.monotonic()
            await neighbour.exec(ALIVE)
            slowest = max(slowest, time.monotonic() - started)
            await asyncio.sleep(0.2)
        return [*found, f"a neighbour waited {slowest:.1f} s for a command"] if slowest > SLOWEST_NEIGHBOUR_S else found

    async def _raced(self, sandbox: Sandbox) -> list[str]:
        process = await sandbox.start(replace(self._command(sandbox), timeout_s=120))
        output = process.output()
        await asyncio.wait_for(anext(output), 10)
        path = f"{scratch(sandbox)}/{self.program.race}"
        for _ in range(RACES):
            with contextlib.suppress(FileOperationFailed):
                self.output += await sandbox.files.read(path, limit_bytes=4096)
                await sandbox.files.write(path, b"from the host\n")
        await process.kill()
        await process.wait()
        return []

    async def _operate(self, sandbox: Sandbox, operation: str, path: str) -> list[str]:
        files = sandbox.files
        operations: dict[str, Callable[[], object]] = {
            "read": lambda: files.read(path, limit_bytes=OUTPUT_LIMIT),
            "write": lambda: files.write(path, b"from the host\n"),
            "append": lambda: files.write(path, b"from the host\n", append=True),
            "list": lambda: files.list(path),
            "remove": lambda: files.remove(path, recursive=True),
            "mkdir": lambda: files.make_directory(path),
            "chmod": lambda: files.change_mode(path, 0o600),
        }
        try:
            answer = await asyncio.wait_for(operations[operation](), 20)  # type: ignore[arg-type]
        except (FileOperationFailed, OutputTooLarge) as error:
            self.output += str(error).encode(errors="surrogateescape")
            return []
        except TimeoutError:
            return [f"{operation} {path} hung"]
        self.output += answer if isinstance(answer, bytes) else repr(answer).encode()
        return []

    async def _still_usable(self, sandbox: Sandbox) -> list[str]:
        """Whatever the program did, the agent answers; a process limit that is still full may keep commands from starting."""
        try:
            await sandbox.statistics()
            if not self.program.bomb and (await sandbox.exec(ALIVE)).stdout != b"alive\n":
                return ["the sandbox runs no commands any more"]
        except AgentKernelError as error:
            return [f"the sandbox does not answer any more: {error}"]
        return []

    async def _destroy(self, sandbox: Sandbox) -> list[str]:
        started = time.monotonic()
        await sandbox.destroy()
        took = time.monotonic() - started
        return [f"destroying took {took:.1f} s"] if took > 10 else []

    @asynccontextmanager
    async def _neighbour(self) -> AsyncIterator[Sandbox | None]:
        """A second sandbox that must not suffer from a bomb, which is let loose only under the test's own limits."""
        if not self.program.bomb:
            yield None
            return
        sandbox = await self.backend.create(replace(self.base, resources=LIMITS))
        try:
            assert all(is_limited(pid) for pid in (os.getpid(), *descendants(os.getpid()))), "no bomb without an outer limit"
            yield sandbox
        finally:
            await sandbox.destroy()


def _host_has_inotify() -> bool:
    descriptor = ctypes.CDLL(None, use_errno=True).inotify_init1(os.O_CLOEXEC)
    if descriptor >= 0:
        os.close(descriptor)
    return bool(descriptor >= 0)


def _host_has_terminals() -> bool:
    try:
        descriptors = os.openpty()
    except OSError:
        return False
    for descriptor in descriptors:
        os.close(descriptor)
    return True


DURING = {"inotify": _host_has_inotify, "terminal": _host_has_terminals}
