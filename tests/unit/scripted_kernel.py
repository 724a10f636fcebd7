"""A kernel whose commands are scripts in this file: nothing of the host runs, so the command line can be tested alone.

As a program it is the command line on that kernel: `python scripted_kernel.py run -- cat`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from agentkernel.abc import Caller, Run
from agentkernel.errors import BackendUnavailable, CommandNotExecutable, CommandNotFound, SandboxLost
from agentkernel.model.command import Cause, Command, ExitStatus, LimitHit, TerminalSize
from agentkernel.model.decisions import details_of, kind_of
from agentkernel.model.isolation import BackendKind, Feature, Fingerprint, IsolationLevel, Provision, Support
from agentkernel.model.network import Decision, PublishedPort
from agentkernel.model.record import Event, EventFilter
from agentkernel.model.request import Grant, Notice, SandboxRequest
from agentkernel.model.spec import NetworkMode, RootFilesystem, RootKind, SandboxSpec

Chunks = AsyncIterator[tuple[int, bytes]]

FINGERPRINTS = (
    Fingerprint(
        backend="namespaces",
        ready=True,
        level=IsolationLevel.CONTAINER,
        features={
            Feature.EXEC: Provision(support=Support.NATIVE),
            Feature.MEMORY_LIMIT: Provision(support=Support.EMULATED, reason="sampled", remedy="delegate a cgroup"),
        },
        details={"kernel": "6.1"},
    ),
    Fingerprint(backend="docker", ready=False, level=IsolationLevel.CONTAINER, reason="no docker socket", remedy="start dockerd"),
)


class ScriptedProcess:
    """Implements `abc.Process` for one script."""

    exec_id = 7
    pid = 3

    def __init__(self, command: Command, log: Callable[[str], None]) -> None:
        self.command = command
        self.argv = [os.fsdecode(word) for word in command.argv]
        self.status = ExitStatus(exit_code=0)
        self.killed = asyncio.Event()
        self.signals: asyncio.Queue[int] = asyncio.Queue()
        self.sizes: asyncio.Queue[TerminalSize] = asyncio.Queue()
        self.stdin: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        self.log = log

    async def write_stdin(self, data: bytes) -> None:
        await self.stdin.put(data)

    async def close_stdin(self) -> None:
        await self.stdin.put(b"")

    async def output(self) -> Chunks:
        script = SCRIPTS[self.argv[0]](self)
        killed = asyncio.ensure_future(self.killed.wait())
        try:
            while True:
                step = asyncio.ensure_future(anext(script, None))
                await asyncio.wait((step, killed), return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    step.cancel()
                    await asyncio.gather(step, return_exceptions=True)
                    self.status = ExitStatus(exit_code=137, signal=9, cause=Cause.KILLED)
                    return
                chunk = step.result()
                if chunk is None:
                    return
                yield chunk
        finally:
            killed.cancel()

    async def wait(self) -> ExitStatus:
        return self.status

    async def signal(self, number: int, *, tree: bool = False) -> None:
        self.log(f"signal {number} tree={tree}")
        await self.signals.put(number)

    async def resize(self, size: TerminalSize) -> None:
        await self.sizes.put(size)

    async def kill(self) -> None:
        self.log("kill")
        self.killed.set()


async def _echo(process: ScriptedProcess) -> Chunks:
    yield 1, " ".join(process.argv[1:]).encode() + b"\n"


async def _both(process: ScriptedProcess) -> Chunks:
    yield 1, b"out\x00\xff\n"
    yield 2, b"err\xfe\n"
    process.status = ExitStatus(exit_code=int(process.argv[1]))


async def _cat(process: ScriptedProcess) -> Chunks:
    while process.command.stdin and (data := await process.stdin.get()):
        yield 1, data


async def _flood(process: ScriptedProcess) -> Chunks:
    for _ in range(int(process.argv[1]) // 65536):
        yield 1, b"x" * 65536
    process.log("flooded")


async def _polite(process: ScriptedProcess) -> Chunks:
    yield 1, b"ready\n"
    number = await process.signals.get()
    yield 1, f"asked by {number}\n".encode()


async def _stubborn(process: ScriptedProcess) -> Chunks:
    yield 1, b"ready\n"
    await asyncio.Event().wait()


async def _ended(process: ScriptedProcess) -> Chunks:
    """`ended CAUSE CODE [LIMIT...]`"""
    limits = tuple(LimitHit(name) for name in process.argv[3:])
    process.status = ExitStatus(exit_code=int(process.argv[2]), cause=Cause(process.argv[1]), limits_hit=limits)
    return
    yield 1, b""


async def _describe(process: ScriptedProcess) -> Chunks:
    size = process.command.terminal
    record = {
        "argv": process.argv,
        "terminal": None if size is None else [size.rows, size.columns],
        "stdin": process.command.stdin,
        "environment": {name.decode(): value.decode() for name, value in process.command.environment.items()},
        "timeout_s": process.command.timeout_s,
    }
    yield 1, json.dumps(record).encode() + b"\n"


async def _sizes(process: ScriptedProcess) -> Chunks:
    yield 1, b"ready\r\n"
    size = await process.sizes.get()
    yield 1, f"{size.rows}x{size.columns}\r\n".encode()


async def _keys(process: ScriptedProcess) -> Chunks:
    """Shows each key by its code, until q."""
    yield 1, b"ready\r\n"
    while (data := await process.stdin.get()) != b"q":
        yield 1, f"[{data.hex()}]".encode()


async def _lost(process: ScriptedProcess) -> Chunks:
    yield 1, b"half"
    raise SandboxLost("the sandbox died", hint="run it again")


SCRIPTS: dict[str, Callable[[ScriptedProcess], Chunks]] = {
    "echo": _echo,
    "both": _both,
    "cat": _cat,
    "flood": _flood,
    "polite": _polite,
    "stubborn": _stubborn,
    "ended": _ended,
    "describe": _describe,
    "sizes": _sizes,
    "keys": _keys,
    "lost": _lost,
}


@dataclass
class ScriptedSandbox:
    """As much of `abc.Sandbox` as `run` uses."""

    spec: SandboxSpec
    log: Callable[[str], None]
    backend: str = "namespaces"
    sandbox_id: str = "0123456789abcdef"

    async def start(self, command: Command) -> ScriptedProcess:
        name = os.fsdecode(command.argv[0])
        if name == "missing":
            raise CommandNotFound("there is no command 'missing' in the sandbox", hint="check its name")
        if name == "plain-file":
            raise CommandNotExecutable("'plain-file' cannot be executed")
        self.log(f"start {name}")
        return ScriptedProcess(command, self.log)


@dataclass
class ScriptedKernel:
    """Implements `abc.Kernel`; `happened` says what happened, also in a file when the process is another one."""

    fingerprints_found: Sequence[Fingerprint] = FINGERPRINTS
    notices: tuple[Notice, ...] = ()
    slow_to_build: bool = False
    happened: list[str] = field(default_factory=list)
    denied: tuple[Decision, ...] = ()  # while a command runs
    requests: list[SandboxRequest] = field(default_factory=list)
    log_path: str = ""

    def log(self, event: str) -> None:
        self.happened.append(event)
        if self.log_path:
            with open(self.log_path, "a") as file:
                file.write(event + "\n")

    async def fingerprints(self, caller: Caller) -> Sequence[Fingerprint]:
        return self.fingerprints_found

    async def grant(self, caller: Caller, request: SandboxRequest) -> Grant:
        self.requests.append(request)
        if request.backend == "docker":
            raise BackendUnavailable("backend 'docker' cannot run here", hint="start dockerd")
        spec = SandboxSpec(name=request.name or "run-1", root=RootFilesystem(kind=RootKind.HOST), profile=request.profile)
        spec = replace(spec, ports=request.ports, network=NetworkMode.NONE if request.network is False else NetworkMode.FILTERED)
        if request.memory_bytes is not None:
            spec = replace(spec, resources=replace(spec.resources, memory_bytes=request.memory_bytes))
        return Grant(spec=spec, backend="namespaces", chosen=BackendKind.CHOSEN, notices=self.notices)

    @asynccontextmanager
    async def sandbox(self, caller: Caller, request: SandboxRequest) -> AsyncIterator[tuple[Any, Grant]]:
        grant = await self.grant(caller, request)
        self.log("building")
        if self.slow_to_build:
            await asyncio.sleep(60)
        try:
            yield ScriptedSandbox(spec=grant.spec, log=self.log), grant
        finally:
            await asyncio.sleep(0)
            self.log("destroyed")

    @asynccontextmanager
    async def run(self, caller: Caller, request: SandboxRequest, command: Command) -> AsyncIterator[Run]:
        async with self.sandbox(caller, request) as (sandbox, grant):
            process = await sandbox.start(command)
            yield Run(
                process=process,
                sandbox_id=sandbox.sandbox_id,
                backend=grant.backend,
                isolation=IsolationLevel.CONTAINER,
                notices=grant.notices,
            )

    async def aftermath(self, caller: Caller, grant: Grant) -> tuple[Notice, ...]:
        return ()

    async def ports(self, caller: Caller, name: str) -> tuple[PublishedPort, ...]:
        wanted = self.requests[-1].ports
        return tuple(PublishedPort(port=one.port, host_address=one.host_address, host_port=one.host_port or 40000) for one in wanted)

    async def events(self, caller: Caller, wanted: EventFilter) -> AsyncIterator[Event]:
        for decision in self.denied:
            if kind_of(decision) in wanted.kinds:
                details = details_of(decision)
                yield Event(kind=kind_of(decision), at=decision.at, principal="ann", sandbox_id=wanted.sandbox, details=details)

    async def close(self) -> None:
        """Nothing is held."""

    def isolation_of(self, backend: str) -> IsolationLevel:
        return IsolationLevel.CONTAINER


def from_environment(environment: Mapping[str, str]) -> ScriptedKernel:
    notices = (
        (Notice(code="no-network", message="the sandbox has no network", hint="--network"),) if environment.get("SCRIPTED_NOTICE") else ()
    )
    return ScriptedKernel(log_path=environment.get("SCRIPTED_LOG", ""), notices=notices, slow_to_build="SCRIPTED_SLOW" in environment)


if __name__ == "__main__":
    from agentkernel import assembly
    from agentkernel.cli.main import main

    if os.environ.get("SCRIPTED_SIGINT") == "default":  # a background job of a test runner may have it ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assembly.build_engine = from_environment  # type: ignore[assignment]
    sys.exit(main())
