"""The contracts: what a backend, a sandbox, a process and the kernel's door promise. Prose is part of the contract.

Every call may be cancelled. What a backend cannot do its fingerprint says before anything is tried.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agentkernel.model.command import Command, ExecResult, ExitStatus, TerminalSize
    from agentkernel.model.inspection import FileRecord, ProcessRecord, SandboxStatistics, WatchEvent
    from agentkernel.model.isolation import Fingerprint, IsolationLevel
    from agentkernel.model.request import Grant, Notice, SandboxRequest
    from agentkernel.model.spec import SandboxSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: the principal as audit shows it, and what it may do."""

    principal: str
    scopes: frozenset[str] = frozenset({"full"})


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


class Files(Protocol):
    """File operations, done inside as the sandbox's user, so they can do no more than a command could.

    Paths are absolute paths inside. Raises FileOperationFailed with the errno.
    """

    async def read(self, path: str, *, offset: int = 0, length: int | None = None, limit_bytes: int = ...) -> bytes:
        """Reads a regular file; raises OutputTooLarge beyond `limit_bytes`."""
        ...

    def read_stream(self, path: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Reads in chunks."""
        ...

    async def write(
        self,
        path: str,
        data: bytes | AsyncIterator[bytes],
        *,
        mode: int = 0o644,
        parents: bool = False,
        exclusive: bool = False,
        append: bool = False,
    ) -> None:
        """Creates or replaces (or appends to) a file."""
        ...

    async def stat(self, path: str, *, follow: bool = True) -> FileRecord:
        """Describes one path."""
        ...

    async def list(self, path: str) -> list[FileRecord]:
        """Lists a directory in the kernel's order."""
        ...

    async def make_directory(self, path: str, *, mode: int = 0o755, parents: bool = False) -> None:
        """Makes a directory; with `parents` the missing ones above it too, and one that is there is no error."""
        ...

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Removes a file, an empty directory or, with `recursive`, a whole tree; never follows a symlink."""
        ...

    async def move(self, source: str, target: str) -> None:
        """Renames, replacing a file that is there."""
        ...

    async def symlink(self, target: str, path: str) -> None:
        """Makes a symlink at `path` that says `target`, which need not exist."""
        ...

    async def change_mode(self, path: str, mode: int) -> None:
        """Sets the permission bits, following symlinks."""
        ...

    def watch(self, path: str) -> AsyncIterator[WatchEvent]:
        """Yields events of one directory or file, the first with mask 0 when the watch is in place."""
        ...


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

    async def destroy(self) -> None:
        """Kills everything inside and removes every trace on the host; repeating it is fine."""
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

    async def sweep(self) -> int:
        """Removes what crashed engines left on the host; returns how many sandboxes were removed."""
        ...


class Kernel(Protocol):
    """The one door: what every front end talks to. Policy, limits and audit live behind it."""

    async def fingerprints(self, caller: Caller) -> Sequence[Fingerprint]:
        """Probes every backend."""
        ...

    async def grant(self, caller: Caller, request: SandboxRequest) -> Grant:
        """Decides without doing anything: what would be built, by which backend, and what to tell the user."""
        ...

    def sandbox(self, caller: Caller, request: SandboxRequest) -> AbstractAsyncContextManager[tuple[Sandbox, Grant]]:
        """Builds a sandbox and destroys it at the end of the block."""
        ...

    async def aftermath(self, caller: Caller, grant: Grant) -> Sequence[Notice]:
        """What the user should know after the sandbox of a grant has ended: above all files that it made in a writable workspace and that
        programs on the host run or obey."""
        ...

    def isolation_of(self, backend: str) -> IsolationLevel:
        """The level that a backend reaches at best."""
        ...
