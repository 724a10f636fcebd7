"""A host for engines whose backend is a script: what it made stays when the engine object is thrown away, as after a `kill -9`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkernel.abc import Caller, Store
from agentkernel.abc_network import Tunnel, TunnelPeer
from agentkernel.engine.admission import Limits
from agentkernel.engine.host import HostEngine
from agentkernel.engine.parts import ImageParts, Parts
from agentkernel.errors import AgentKernelError, BackendUnavailable, LaunchFailed, SandboxLost, UnknownKey
from agentkernel.model.command import Command, ExecResult, ExitStatus
from agentkernel.model.inspection import ProcessRecord, SandboxStatistics
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Presence, Provision, Support
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Bind, RootFilesystem, RootKind, SandboxSpec
from agentkernel.store.memory import MemoryStore

ANN, BOB = Caller(principal="ann"), Caller(principal="bob")
HOST_ROOT = RootFilesystem(kind=RootKind.HOST, path_directories=("/usr/bin",), binds=(Bind(source="/usr", target="/usr"),))
NATIVE = Provision(support=Support.NATIVE)
HERE = Presence(identity="here")


class Files(dict[str, bytes]):
    """A sandbox's files, as far as engines look at them themselves."""

    async def stat(self, path: str) -> None:
        """Is asked of a directory before anybody has a sandbox."""
        assert path == "/"


@dataclass(eq=False)
class Machine:
    """One booted sandbox as it is on the host, whoever is attached to it."""

    spec: SandboxSpec
    owner: str
    running: bool = True
    files: Files = field(default_factory=Files)
    commands: dict[int, ProcessRecord] = field(default_factory=dict)
    printed: dict[int, bytes] = field(default_factory=dict)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    peer: TunnelPeer | None = None  # who is given what its agent begins
    sent: list[tuple[int, int, int, bytes]] = field(default_factory=list)  # and what that sent
    mourners: list[tuple[ScriptedSandbox, Callable[[AgentKernelError], None]]] = field(default_factory=list)

    def die(self) -> None:
        """Its first process ends, which whoever is attached to it is told."""
        self.running = False
        self.tell(SandboxLost("the sandbox died: killed by the test"))

    def tell(self, error: AgentKernelError) -> None:
        """The connection of whoever is attached to it is over."""
        for sandbox, tell in self.mourners:
            if not sandbox.closed:
                tell(error)


class ScriptedSandbox:
    """Implements `abc.Sandbox`, `abc.Recordable`, `abc.Mortal`, `abc.Assignable` and `abc.Tunnelled`, as far as engines use them, over a machine."""

    backend = "scripted"

    def __init__(self, world: World, sandbox_id: str, machine: Machine) -> None:
        self.world = world
        self.sandbox_id = sandbox_id
        self.machine = machine
        self.closed = False

    @property
    def spec(self) -> SandboxSpec:
        return self.machine.spec

    @property
    def files(self) -> Files:
        return self.machine.files

    async def exec(self, command: Command, *, stdin: bytes = b"") -> ExecResult:
        await asyncio.sleep(0)
        self._check()
        return await self.world.run(self, command)

    async def processes(self) -> Sequence[ProcessRecord]:
        self._check()
        return tuple(self.machine.commands.values())

    async def statistics(self) -> SandboxStatistics:
        self._check()
        return SandboxStatistics(uptime_ms=1, processes=0, records=0, total_pids=1, rss_bytes=0, cpu_us=0)

    async def record(self, exec_id: int, offsets: tuple[int, int], sink: Callable[[int, int, bytes], None]) -> ExitStatus:
        self._check()
        sink(1, offsets[0], self.machine.printed[exec_id][offsets[0] :])
        await self.machine.finished.wait()
        return ExitStatus(exit_code=0)

    def assign(self, spec: SandboxSpec) -> None:
        self._check()
        self.machine.spec = spec

    def route(self, peer: TunnelPeer | None) -> TunnelPeer:
        self.machine.peer = peer
        return Sent(self.machine.sent)

    async def open_tunnel(self, port: int) -> Tunnel:
        self._check()
        return await self.world.connect(port)

    def when_lost(self, tell: Callable[[AgentKernelError], None]) -> None:
        self.machine.mourners.append((self, tell))

    async def close(self) -> None:
        self.closed = True

    async def stop(self) -> None:
        await self.world.pass_gate("stop", self.sandbox_id)
        self.machine.running = False

    async def destroy(self) -> None:
        await self.world.pass_gate("destroy", self.sandbox_id)
        self.machine.running = False
        self.world.machines.pop(self.sandbox_id, None)

    def _check(self) -> None:
        if self.closed or not self.machine.running:
            raise SandboxLost("the sandbox died: killed by the test")


class Sent:
    """Takes the frames for an agent."""

    def __init__(self, frames: list[tuple[int, int, int, bytes]]) -> None:
        self._frames = frames

    def take(self, kind: int, flags: int, ident: int, payload: bytes | memoryview) -> None:
        self._frames.append((kind, flags, ident, bytes(payload)))

    def reset(self) -> None:
        """The agent's end is not told."""


class ScriptedBackend:
    """Implements `abc.Backend`."""

    name = "scripted"

    def __init__(self, world: World) -> None:
        self.world = world

    async def probe(self) -> Fingerprint:
        return Fingerprint(backend=self.name, ready=True, level=IsolationLevel.CONTAINER, features=dict.fromkeys(Feature, NATIVE))

    async def create(self, spec: SandboxSpec) -> ScriptedSandbox:
        return await self.boot("00" * 8, spec, "")

    async def boot(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> ScriptedSandbox:
        await self.world.pass_gate("boot", sandbox_id)
        machine = self.world.machines.get(sandbox_id)
        if machine is None:
            machine = self.world.machines[sandbox_id] = Machine(spec=spec, owner=owner)
        machine.running, machine.spec = True, spec
        self.world.boots += 1
        return ScriptedSandbox(self.world, sandbox_id, machine)

    async def recover(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> ScriptedSandbox | None:
        await self.world.pass_gate("recover", sandbox_id)
        machine = self.world.machines.get(sandbox_id)
        return ScriptedSandbox(self.world, sandbox_id, machine) if machine is not None and machine.running else None

    async def has_files(self, sandbox_id: str, owner: str) -> bool:
        await self.world.pass_gate("has_files", sandbox_id)
        return sandbox_id in self.world.machines

    async def discard(self, sandbox_id: str, owner: str) -> None:
        await self.world.pass_gate("discard", sandbox_id)
        self.world.machines.pop(sandbox_id, None)

    async def sweep(self) -> int:
        return 0

    async def sweep_owned(self, owner: str, keep: Collection[str]) -> int:
        await self.world.pass_gate("sweep", owner)
        gone = [each for each, machine in self.world.machines.items() if machine.owner == owner and each not in keep]
        for each in gone:
            del self.world.machines[each]
        return len(gone)


async def _succeed(sandbox: ScriptedSandbox, command: Command) -> ExecResult:
    return ExecResult(status=ExitStatus(exit_code=0), stdout=b"", stderr=b"")


async def _refuse(port: int) -> Tunnel:
    raise ConnectionRefusedError(f"nobody listens on {port}")


@dataclass
class World:
    """The host, the user's disk and the clock. `engine()` is a new process on it."""

    directory: Path
    store: Store = field(default_factory=MemoryStore)
    limits: Limits = field(default_factory=Limits)
    machines: dict[str, Machine] = field(default_factory=dict)
    gates: dict[str, Callable[[str], Awaitable[None]]] = field(default_factory=dict)  # by what is done
    backend_is_there: bool = True
    present: Presence = HERE  # what the host shows of it
    boots: int = 0
    now: float = 1_000_000.0
    root: RootFilesystem = HOST_ROOT
    run: Callable[[ScriptedSandbox, Command], Awaitable[ExecResult]] = _succeed
    connect: Callable[[int], Awaitable[Tunnel]] = _refuse  # to a port inside
    images: dict[str, Any] = field(default_factory=dict)  # further fields of `ImageParts`
    others: dict[str, ScriptedBackend] = field(default_factory=dict)  # further backends, by name
    engines: list[Any] = field(default_factory=list)
    closed: list[asyncio.Event] = field(default_factory=list)

    def engine(self, kind: type[Any] = HostEngine, **more: Any) -> Any:
        parts = Parts(
            backends=self,
            images=ImageParts(
                host_root=lambda **_: self.root,
                is_project=lambda directory, home: False,
                image_for=lambda argv, names: None,
                unpack_argv=lambda options, archives, destination, limit: (),
                **self.images,
            ),
            environment={"PATH": "/usr/bin"},
            home=str(self.directory / "home"),
            uid=1000,
            cache_directory=str(self.directory / "cache"),
            standing=lambda: "here",
            open_store=lambda: self.store,
            data_directory=str(self.directory / "data"),
            runtime_directory=str(self.directory / "run"),
            limits=self.limits,
            **more,
        )
        engine = kind(parts, clock=lambda: self.now)
        self.engines.append(engine)
        return engine

    def request(self, **changes: Any) -> SandboxRequest:
        return SandboxRequest(cwd=str(self.directory), profile="restrictive", **changes)

    async def pass_gate(self, what: str, sandbox_id: str) -> None:
        await asyncio.sleep(0)
        if what in self.gates:
            await self.gates[what](sandbox_id)

    async def end(self) -> None:
        """Opens every gate and closes every engine."""
        self.gates.clear()
        for gate in self.closed:
            gate.set()
        for engine in self.engines:
            await engine.close()

    def closed_gate(self, what: str) -> asyncio.Event:
        """From now on who does that waits until the event is set."""
        gate = asyncio.Event()
        self.closed.append(gate)

        async def wait(sandbox_id: str) -> None:
            await gate.wait()

        self.gates[what] = wait
        return gate

    def failing_gate(self, what: str, error: Exception | None = None) -> None:
        """From now on that fails."""

        async def fail(sandbox_id: str) -> None:
            raise error or LaunchFailed(f"{what} failed")

        self.gates[what] = fail

    # -- `BackendSource`

    def names(self) -> tuple[str, ...]:
        return ("scripted", *self.others)

    def all_names(self) -> tuple[str, ...]:
        return self.names()

    def presence(self, name: str) -> Presence:
        return self.present

    def load(self, name: str) -> Any:
        if not self.backend_is_there:
            raise BackendUnavailable(f"backend {name!r} cannot be loaded", hint="install it")
        if name not in self.names():
            raise UnknownKey(f"there is no backend {name!r}")
        return self.others.get(name) or ScriptedBackend(self)
