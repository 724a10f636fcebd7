"""The contracts: what a backend, a sandbox, a process and the kernel's door promise. Prose is part of the contract.

Every call may be cancelled. What a backend cannot do its fingerprint says before anything is tried.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from agentkernel.abc_files import Files as Files
from agentkernel.abc_store import Store as Store

if TYPE_CHECKING:
    from agentkernel.errors import AgentKernelError
    from agentkernel.model.command import Command, ExecResult, ExitStatus, TerminalSize
    from agentkernel.model.image import ImageProgress, ImageRecord, ImageWork
    from agentkernel.model.inspection import ProcessRecord, SandboxStatistics
    from agentkernel.model.isolation import Fingerprint, IsolationLevel
    from agentkernel.model.network import EgressChange, EgressRules, PortRule, PublishedPort
    from agentkernel.model.record import (
        CreateOptions,
        Event,
        EventFilter,
        KernelStatus,
        Labels,
        LogEntry,
        SandboxFilter,
        SandboxInfo,
    )
    from agentkernel.model.request import Grant, Notice, SandboxRequest
    from agentkernel.model.spec import SandboxSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: the principal as audit shows it, and what it may do (`engine.access`)."""

    principal: str
    scopes: frozenset[str] = frozenset({"full"})
    remote: bool = False  # it may be on another machine: it has no paths, files or variables of this one, but with scope `host`
    via: str = ""  # the name of the token that it came with, as audit shows it
    vouched: bool = False  # a server on this host makes its requests, and says what in them its operator's settings have added

    @property
    def is_elsewhere(self) -> bool:
        """Whether nothing of this host's files may be named by it, or told to it."""
        return self.remote and "host" not in self.scopes


class Process(Protocol):
    """A running command. Output must be consumed or the command waits: nobody's memory grows."""

    @property
    def exec_id(self) -> int:
        """The id that survives re-attachment."""
        ...

    @property
    def pid(self) -> int:
        """The pid as seen inside."""
        ...

    async def write_stdin(self, data: bytes) -> None:
        """Sends input, waiting while the command does not read; input to a closed stdin is discarded."""
        ...

    async def close_stdin(self) -> None:
        """Ends the input; on a terminal this types the end-of-file character."""
        ...

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yields (stream, bytes) until the command ends: stream 1 is stdout or the terminal, 2 stderr. Iterate once."""
        ...

    async def wait(self) -> ExitStatus:
        """Waits for the end; discards output that nobody iterates."""
        ...

    async def signal(self, number: int, *, tree: bool = False) -> None:
        """Signals the main process, or the whole tree."""
        ...

    async def resize(self, size: TerminalSize) -> None:
        """Sets the terminal's size."""
        ...

    async def kill(self) -> None:
        """SIGKILL for the whole tree; `wait` then tells the end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A command in a sandbox of its own, and what that is."""

    process: Process
    sandbox_id: str
    backend: str
    isolation: IsolationLevel
    notices: tuple[Notice, ...] = ()


class Sandbox(Protocol):
    """A live sandbox."""

    @property
    def spec(self) -> SandboxSpec:
        """As granted."""
        ...

    @property
    def backend(self) -> str:
        """The name of the backend that made it."""
        ...

    @property
    def sandbox_id(self) -> str:
        """16 hexadecimal digits; of one that is not booted by a store's engine, whatever its backend calls it."""
        ...

    @property
    def files(self) -> Files:
        """Its files."""
        ...

    async def start(self, command: Command) -> Process:
        """Starts a command.

        Raises:
            CommandNotFound, CommandNotExecutable, CommandNotStarted: it did not start.
            SandboxLost: the sandbox died; whether it started is unknown.
        """
        ...

    async def exec(self, command: Command, *, stdin: bytes = b"") -> ExecResult:
        """Runs one command to its end; a non-zero exit is a result, not an error.

        Raises:
            TimedOut: the whole process tree was killed; the sandbox still runs.
            SandboxLost: the sandbox died; whether the command took effect is unknown.
        """
        ...

    async def processes(self) -> Sequence[ProcessRecord]:
        """What the agent started and still remembers."""
        ...

    async def statistics(self) -> SandboxStatistics:
        """Numbers from inside."""
        ...

    async def connect(self, port: int) -> Process:
        """Connects to a TCP port on the sandbox's loopback; the process's stdin and stdout are the connection."""
        ...

    async def attach(self, exec_id: int) -> Process:
        """Takes up a command that runs, or ran: its output goes on from what is still kept; raises NotFound."""
        ...

    async def kill_commands(self) -> None:
        """SIGKILL for the whole tree of every running command, whoever started it."""
        ...

    async def close(self) -> None:
        """Lets go without ending anything in it; a sandbox that was booted lives on and can be recovered."""
        ...

    async def stop(self) -> None:
        """Kills everything inside and frees all but the files, with which `boot` goes on; repeating it is fine."""
        ...

    async def destroy(self) -> None:
        """Kills everything inside and removes every trace on the host; repeating it is fine."""
        ...


@dataclass(slots=True, kw_only=True)
class Visit:
    """A sandbox that runs for the length of a block; how it was found, and how it was left."""

    sandbox: Sandbox
    is_started: bool  # it was stopped before
    goes_on: bool = True  # it runs still: for other visitors, for commands run in it, or as before; known when the block has ended


@runtime_checkable
class Assignable(Protocol):
    """Optional power of a sandbox: it can be made before anybody asks for it. Backends whose sandboxes lack it have no pool."""

    def assign(self, spec: SandboxSpec) -> None:
        """Gives a sandbox in which nothing was run yet the name, the base environment, the linger time, the egress rules and the
        published ports of `spec`, which is the one that it was made of in all else. Raises SandboxLost when it has died."""
        ...


@runtime_checkable
class Mortal(Protocol):
    """Optional power of a sandbox: it tells when it has died by itself. Of others it is found out by asking them."""

    def when_lost(self, tell: Callable[[AgentKernelError], None]) -> None:
        """Calls `tell` once, with the reason, when it has died or its agent cannot be spoken to any more, soon if that is so already.

        Never from within this call, and not when this process has closed, stopped or destroyed it."""
        ...


@runtime_checkable
class Recordable(Protocol):
    """Optional power of a sandbox: what a command prints can be read beside whoever reads it. Without it nothing is recorded."""

    def record(self, exec_id: int, offsets: tuple[int, int], sink: Callable[[int, int, bytes], None]) -> Awaitable[ExitStatus]:
        """Gives `sink` the output of a command as (stream, offset, bytes), from `offsets` (of stdout and stderr) on, or from the oldest
        byte that is still kept; what is returned waits for its end. From the call on nothing of it is forgotten, whoever has done with
        the command, and its result stays for others to ask for. Raises NotFound, SandboxLost."""
        ...


class Backend(Protocol):
    """Makes sandboxes of one isolation technology; keeps no state that cannot be rebuilt from the host."""

    name: str

    async def probe(self) -> Fingerprint:
        """Finds out, by running the whole plan, what this host allows; never raises for a host that cannot."""
        ...

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Builds and starts a sandbox whose agent answers.

        Raises:
            LaunchFailed: it could not be built; nothing is left behind.
        """
        ...

    async def boot(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox:
        """Builds and starts a sandbox that lives on without its engine, under an id that the caller has stored before.

        Every external name is made of `sandbox_id`. The files of an earlier boot of that id are there again. `owner` is the identity of
        the store that the id is in; it is recorded with everything made, so that no other engine sweeps it.

        Raises:
            LaunchFailed: it could not be built; nothing is left but the files of earlier boots.
            Unsupported: this backend or host cannot keep a sandbox's files.
        """
        ...

    async def recover(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox | None:
        """Takes up a booted sandbox that a crashed engine left running; None when it does not run (any more), and then what was left of
        it but its files is removed."""
        ...

    async def discard(self, sandbox_id: str, owner: str) -> None:
        """Removes every trace of a booted sandbox, its files too, running or not; nothing there is fine."""
        ...

    async def sweep(self) -> int:
        """Removes what crashed engines left of sandboxes made by `create`; returns how many sandboxes were removed."""
        ...

    async def sweep_owned(self, owner: str, keep: Collection[str]) -> int:
        """Removes every booted sandbox of that owner whose id is not to be kept; returns how many."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """Optional power of a backend: it knows whether somebody else has removed the files of a sandbox that is stopped."""

    async def has_files(self, sandbox_id: str, owner: str) -> bool:
        """Whether there is anything kept of a sandbox that ran before, with storage on disk. Raises what `recover` raises."""
        ...


class Kernel(Protocol):
    """The one door: what every front end talks to. Policy, limits and audit live behind it.

    `name` is a sandbox's name, its id, or NAME@ID: that id while it has that name. Callers see their own sandboxes; scope `admin` all.
    """

    async def fingerprints(self, caller: Caller) -> Sequence[Fingerprint]:
        """Probes every backend."""
        ...

    async def grant(self, caller: Caller, request: SandboxRequest) -> Grant:
        """Decides without doing anything: what would be built, by which backend, and what to tell the user."""
        ...

    def sandbox(self, caller: Caller, request: SandboxRequest) -> AbstractAsyncContextManager[tuple[Sandbox, Grant]]:
        """Builds a sandbox and destroys it at the end of the block."""
        ...

    def run(self, caller: Caller, request: SandboxRequest, command: Command) -> AbstractAsyncContextManager[Run]:
        """Starts one command in a sandbox that is made for it; a request without `argv` is taken to be for this one.

        With the end of the block the command is killed, where it still runs, and the sandbox goes, at once or a moment later. Nothing that
        the command has left running delays its end.

        Raises:
            CommandNotFound, CommandNotExecutable, CommandNotStarted: it did not start.
            InvalidInput: a detached command: it would outlive its sandbox.
            AgentKernelError: what `sandbox` raises.
        """
        ...

    async def aftermath(self, caller: Caller, grant: Grant) -> Sequence[Notice]:
        """What the user should know after the sandbox of a grant has ended: above all files that it made in a writable workspace and that
        programs on the host run or obey."""
        ...

    def isolation_of(self, backend: str) -> IsolationLevel:
        """The level that a backend reaches at best."""
        ...

    async def create(self, caller: Caller, request: SandboxRequest, options: CreateOptions) -> SandboxInfo:
        """Makes a lasting sandbox, stopped unless `options.start`; raises what `grant` raises, and Conflict for a name that is taken."""
        ...

    async def start(self, caller: Caller, name: str, secret_values: dict[str, str] | None = None) -> SandboxInfo:
        """Boots it with its files; one that runs is fine, unless values of its secrets are given again (Conflict)."""
        ...

    async def stop(self, caller: Caller, name: str) -> SandboxInfo:
        """Ends everything in it and keeps its files; one that is stopped is fine."""
        ...

    async def remove(self, caller: Caller, name: str, *, force: bool = False) -> None:
        """Removes it and its files; raises Conflict when it runs, unless forced."""
        ...

    async def sandboxes(self, caller: Caller, wanted: SandboxFilter) -> Sequence[SandboxInfo]:
        """Lists one page, by id."""
        ...

    async def info(self, caller: Caller, name: str) -> SandboxInfo:
        """Describes one; raises NotFound."""
        ...

    async def spec(self, caller: Caller, name: str) -> SandboxSpec:
        """What it was granted, without the host's files that its root is made of."""
        ...

    async def open(self, caller: Caller, name: str) -> Sandbox:
        """A running sandbox, to be `close`d; raises NotFound, and Conflict when it does not run."""
        ...

    def visit(self, caller: Caller, name: str) -> AbstractAsyncContextManager[Visit]:
        """A running sandbox for a block: one that is stopped is started, and stopped again after the last visitor's block.

        Then it goes on where somebody runs commands in it or has started it for good; what visitors did with files ends. It is stopped
        also when the visitor's process is killed; where the daemon is killed too, by the next one. Raises what `start` raises.
        """
        ...

    async def rename(self, caller: Caller, name: str, new_name: str) -> SandboxInfo:
        """Gives it another name; raises Conflict for one that is taken."""
        ...

    async def extend(self, caller: Caller, name: str, ttl_s: float | None) -> SandboxInfo:
        """Lets it expire so many seconds from now; None: never."""
        ...

    async def relabel(self, caller: Caller, name: str, labels: Labels) -> SandboxInfo:
        """Replaces its labels."""
        ...

    async def network(self, caller: Caller, name: str) -> EgressRules:
        """Who it may talk to; raises Unsupported for one without filtered network."""
        ...

    async def change_network(self, caller: Caller, name: str, change: EgressChange) -> EgressRules:
        """Changes that, also while it runs, and returns the new rules; raises InvalidInput, Unsupported. What was tried is told by `events`
        of kind `network.allowed`, `network.denied` and `network.failed`."""
        ...

    async def publish(self, caller: Caller, name: str, rule: PortRule) -> PublishedPort:
        """Listens on the host for a port inside of a running sandbox, until it stops; raises Conflict when the host's port is taken."""
        ...

    async def unpublish(self, caller: Caller, name: str, port: int) -> None:
        """Ends that; one that is not published is fine."""
        ...

    async def ports(self, caller: Caller, name: str) -> Sequence[PublishedPort]:
        """What is published of it, by port."""
        ...

    async def image_begin(self, caller: Caller, work: ImageWork) -> str:
        """Begins work on an image and returns its id; it goes on when the caller has gone. Names may be short, and become canonical.

        Raises:
            InvalidInput, NotFound: the name, or a path, cannot be.
            BackendUnavailable: the backend that is to keep the image cannot run here.
            Busy: too much at once.
        """
        ...

    def image_follow(self, caller: Caller, job_id: str, *, after: int = 0, follow: bool = False) -> AsyncIterator[ImageProgress]:
        """The steps so far of the caller's own work, behind the first `after` ones; with `follow` also those to come, to the last one.

        That is DONE or FAILED.

        Raises NotFound for what an earlier daemon worked on: beginning it again goes on where that one was.
        """
        ...

    async def images(self, caller: Caller, backend: str = "") -> Sequence[ImageRecord]:
        """The images that are here: agentkernel's own, and those of every engine that is ready; or those of one backend."""
        ...

    async def image_remove(self, caller: Caller, reference: str, backend: str = "") -> None:
        """Forgets an image of agentkernel's own store, or of an engine; raises NotFound, Conflict (a sandbox uses it)."""
        ...

    async def image_prune(self, caller: Caller, unused_for_s: float, backend: str = "") -> Sequence[str]:
        """Removes what no sandbox uses and nobody has used for so long, of the store or of an engine; one line for each thing."""
        ...

    def logs(self, caller: Caller, name: str, *, exec_id: int = 0, since: float = 0.0, follow: bool = False) -> AsyncIterator[LogEntry]:
        """The recorded output of its detached commands (of one, with `exec_id`), oldest first."""
        ...

    async def collect_garbage(self, caller: Caller, *, dry_run: bool = False) -> Sequence[str]:
        """Removes what has expired and what belongs to no sandbox; returns one line for each thing."""
        ...

    def events(self, caller: Caller, wanted: EventFilter, *, follow: bool = False) -> AsyncIterator[Event]:
        """The audit trail; with `follow` it goes on with what happens."""
        ...

    async def status(self, caller: Caller) -> KernelStatus:
        """The engine at a glance."""
        ...

    async def close(self) -> None:
        """Lets go of everything: lasting sandboxes of a durable store live on, those of an engine in process end."""
        ...


class Host(Kernel, Protocol):
    """What a process that owns a durable store and serves others needs of its engine, beyond the door."""

    @property
    def identity(self) -> str:
        """The store's."""
        ...

    async def recover(self) -> None:
        """Settles what a crash left (`model.status.SETTLES_AS`): adopts what runs, finishes or undoes what was under way, sweeps the
        rest; then goes on doing so on a timer, with expiry and idleness. Called once, before anything else."""
        ...

    async def ephemeral(self, caller: Caller, request: SandboxRequest, exec_id: int, *, fetches: bool = True) -> tuple[Sandbox, Grant]:
        """A sandbox for the one command `exec_id`, stored as such, to be `dispose`d; again the same when asked again for that exec id.

        Without `fetches` DaemonUnavailable, with nothing done, where its image had to be fetched first: nobody would see how far that is.
        """
        ...

    async def ephemeral_of(self, caller: Caller, exec_id: int) -> Sandbox:
        """The sandbox that an earlier engine or connection made for that command; raises NotFound."""
        ...

    async def dispose(self, exec_id: int, caller: Caller | None = None) -> None:
        """Removes the ephemeral sandbox of a command; none there, or with `caller` none that exists for that caller, is fine."""
        ...

    async def arrive(self, caller: Caller, name: str) -> tuple[Sandbox, bool]:
        """Begins a visit: the sandbox, running, and whether it was stopped before. One that is cancelled meanwhile has ended."""
        ...

    async def depart(self, caller: Caller, sandbox: Sandbox) -> bool:
        """Ends a visit, of the handle that `arrive` gave; whether the sandbox goes on. Once for each `arrive`."""
        ...

    def started(self, caller: Caller, sandbox: Sandbox, command: Command, exec_id: int) -> None:
        """Notes that a command was passed on: audit, last use, and for a detached one the recording of its output."""
        ...

    def resumed(self, caller: Caller, sandbox: Sandbox, exec_id: int) -> None:
        """Notes that a client waits again for a foreground command that an earlier engine or connection had passed on."""
        ...

    def ended(self, caller: Caller, sandbox: Sandbox, exec_id: int, status: ExitStatus | None, error: str = "") -> None:
        """Notes its end (or with `error`, an error's code, that it did not start or was lost). Of a detached command that is recorded the
        engine learns the end itself, and being told is fine."""
        ...

    def busy(self) -> int:
        """Operations under way and commands of connected clients: a daemon drains until it is 0."""
        ...
