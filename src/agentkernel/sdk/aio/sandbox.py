"""One sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Unpack

from agentkernel.abc import Caller, Kernel, Process, Sandbox
from agentkernel.channel.gather import Input, collect, whole_of
from agentkernel.config.options import Argument, change_of, command_of, labels_of, port_of, seconds
from agentkernel.errors import Conflict
from agentkernel.model.command import Command
from agentkernel.model.decisions import KINDS, decisions_of
from agentkernel.model.inspection import ProcessRecord, SandboxStatistics
from agentkernel.model.network import Decision, EgressRules, PublishedPort
from agentkernel.model.record import EventFilter, LogEntry, SandboxInfo
from agentkernel.model.request import Notice
from agentkernel.sdk.aio.files import AsyncFiles
from agentkernel.sdk.aio.live import Live
from agentkernel.sdk.aio.process import AsyncConnection, AsyncProcess, AsyncStream, raise_timeout
from agentkernel.sdk.given import moment, number, text
from agentkernel.sdk.options import CommandOptions
from agentkernel.sdk.result import Result

Words = Argument | Sequence[Argument]
_EVENTS = 100  # at a time


class AsyncSandbox:
    """A sandbox. As a context manager it lets go at the end, without ending it: what `create` made lives on until it is removed.

    Every call raises NotFound when the sandbox is gone, Conflict when it does not run, and SandboxLost when it died meanwhile: then it is
    not known whether the call took effect. Of a sandbox of a block the calls about its life (`info` to `logs`) raise Conflict.
    """

    def __init__(self, kernel: Kernel, caller: Caller, info: SandboxInfo | None, handle: Sandbox | None = None) -> None:
        self._kernel = kernel
        self._caller = caller
        self._info = info
        self._handle = handle
        self._live = Live(kernel, caller, self.id, handle)

    @property
    def id(self) -> str:
        """16 hexadecimal digits, for ever."""
        if self._info is not None:
            return self._info.sandbox_id
        return self._handle.sandbox_id if self._handle is not None else ""

    @property
    def name(self) -> str:
        """Its name, as last heard."""
        if self._info is not None:
            return self._info.name
        return self._handle.spec.name if self._handle is not None else ""

    @property
    def backend(self) -> str:
        """The name of the backend that made it."""
        if self._info is not None:
            return self._info.backend
        return self._handle.backend if self._handle is not None else ""

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What there was to say about the request, such as that there is no stronger isolation here."""
        return self._info.notices if self._info is not None else ()

    @cached_property
    def files(self) -> AsyncFiles:
        """Its files."""
        return AsyncFiles(self._live)

    # -- commands

    async def exec(self, *argv: Words, stdin: Input | None = None, check: bool = False, **options: Unpack[CommandOptions]) -> Result:
        """Runs one command to its end. No shell is involved: for one, run `sh -c`.

        Args:
            argv: the program and its arguments, as words or as one list of them.
            stdin: the command's input: text, bytes, or an iterable of bytes of any length. Without it /dev/null.
            check: raises CommandFailed for another exit code than 0, as `Result.check` does.

        Raises:
            UnknownKey, InvalidInput: an option is wrong, or there is no word.
            CommandNotFound, CommandNotExecutable, CommandNotStarted: it did not start.
            TimedOut: its whole process tree was killed; the sandbox still runs.
        """
        whole = b"" if stdin is None else whole_of(stdin)
        command = command_of(argv, options, stdin=whole != b"")
        async with self._live.use() as sandbox:
            if whole is not None:
                done = await sandbox.exec(command, stdin=whole)
            else:
                done = await collect(await sandbox.start(command), stdin, command)
                raise_timeout(done.status, command)
        result = Result.of(command.argv, done)
        return result.check() if check else result

    def stream(self, *argv: Words, stdin: Input | None = None, **options: Unpack[CommandOptions]) -> AsyncStream:
        """Runs one command whose output is read while it runs: `async for chunk in sandbox.stream(...)`. It ends with its reader.

        While nobody reads, the command waits after 256 KiB of each stream; output is never cut. Raises what `exec` raises when it is read.
        """
        if stdin is not None:
            whole_of(stdin)  # raises for what cannot be input, before anything is begun
        command = command_of(argv, options, stdin=stdin is not None)
        return AsyncStream(lambda: self._start(command), command, stdin)

    async def spawn(self, *argv: Words, stdin: bool = False, **options: Unpack[CommandOptions]) -> AsyncProcess:
        """Starts a background command, which goes on when this client ends. With `stdin` it can be written to.

        Its latest 256 KiB of each stream are kept for whoever reads them; all of it is in `logs`, within the engine's limits. With `tty` it
        has a terminal: `write` types on it, `resize` sets its size. Raises what `exec` raises, but TimedOut, which `wait` tells.
        """
        command = command_of(argv, options, stdin=stdin, detached=True)
        return AsyncProcess(await self._start(command), takes_input=command.stdin or command.terminal is not None)

    async def process(self, exec_id: int) -> AsyncProcess:
        """Takes up a command that runs, or has run; its output goes on from what is still kept. Raises NotFound, InvalidInput."""
        async with self._live.use() as sandbox:
            return AsyncProcess(await sandbox.attach(number("exec_id", exec_id)))

    async def processes(self) -> Sequence[ProcessRecord]:
        """The commands that run, and those that ended and whose result nobody has taken."""
        async with self._live.use() as sandbox:
            return await sandbox.processes()

    async def kill_commands(self) -> None:
        """SIGKILL for the whole tree of every command, whoever started it."""
        async with self._live.use() as sandbox:
            await sandbox.kill_commands()

    async def statistics(self) -> SandboxStatistics:
        """Numbers from inside, with the unit in each name: `uptime_ms`, `rss_bytes` and `cpu_us` of all processes together, ..."""
        async with self._live.use() as sandbox:
            return await sandbox.statistics()

    async def connect(self, port: int) -> AsyncConnection:
        """Connects to a TCP port (1-65535) on the sandbox's loopback; a refused connection shows at the first `receive`.

        Raises InvalidInput for what is no port.
        """
        async with self._live.use() as sandbox:
            return AsyncConnection(await sandbox.connect(number("port", port)), port)

    # -- its network

    async def network(self) -> EgressRules:
        """Who it may talk to; raises Unsupported when its network is not filtered: it has none, or the host's."""
        return await self._kernel.network(self._caller, self.id)

    async def allow(self, *hosts: str) -> EgressRules:
        """Lets it talk to more: `example.com`, `*.example.com`, `db.example.com:5432`, `10.0.0.0/8:22`. Without ports 80 and 443 are meant.

        Holds for new connections, at once and for as long as the sandbox exists. A rule that denies wins. Raises InvalidInput, Unsupported.
        """
        return await self._kernel.change_network(self._caller, self.id, change_of(allow=hosts))

    async def deny(self, *hosts: str) -> EgressRules:
        """Forbids destinations (without ports: all ports); open connections to them end. Raises InvalidInput, Unsupported."""
        return await self._kernel.change_network(self._caller, self.id, change_of(deny=hosts))

    async def forget(self, *hosts: str) -> EgressRules:
        """Drops rules, written as they were made, wherever they stand; one that is not there is fine. Raises InvalidInput, Unsupported."""
        return await self._kernel.change_network(self._caller, self.id, change_of(forget=hosts))

    async def network_log(self, *, since: float = 0.0, follow: bool = False) -> AsyncIterator[Decision]:
        """What it tried to reach, from the Unix time `since` on, oldest first, and what became of it; with `follow` it goes on.

        Raises InvalidInput for what is no time.
        """
        wanted = EventFilter(sandbox=self.id, kinds=KINDS, since=moment("since", since), limit=_EVENTS)
        while True:
            count = 0
            async for event in self._kernel.events(self._caller, wanted, follow=follow):
                count += 1
                wanted = replace(wanted, after=event.event_id)
                for decision in decisions_of(event):
                    yield decision
            if count < _EVENTS:
                return

    async def publish(self, port: int | str, host_port: int = 0) -> PublishedPort:
        """Listens on this host's loopback for a port inside, until it is unpublished or the sandbox stops.

        Args:
            port: inside, on its loopback; or all of it as text, such as `8080:80`.
            host_port: on the host; 0: one that is free, see what is returned.

        Raises:
            InvalidInput, Refused: there is no such port, or others than this host could reach it.
            Conflict: the host's port is taken, or the sandbox does not run.
        """
        return await self._kernel.publish(self._caller, self.id, port_of(port, host_port))

    async def unpublish(self, port: int) -> None:
        """Ends that, with its connections; a port inside that is not published is fine. Raises InvalidInput for what is no number."""
        await self._kernel.unpublish(self._caller, self.id, number("port", port))

    async def ports(self) -> Sequence[PublishedPort]:
        """What is published of it, by the port inside."""
        return await self._kernel.ports(self._caller, self.id)

    # -- life

    async def info(self) -> SandboxInfo:
        """Describes it as it is now, running or not."""
        self._info = await self._kernel.info(self._caller, self._lasting())
        return self._info

    async def start(self) -> SandboxInfo:
        """Boots it with its files; one that runs is fine. Raises LaunchFailed, BackendUnavailable, Busy."""
        self._info = await self._kernel.start(self._caller, self._lasting())
        return self._info

    async def stop(self) -> SandboxInfo:
        """Ends everything in it and keeps its files; one that is stopped is fine."""
        name = self._lasting()
        await self._live.drop()
        self._info = await self._kernel.stop(self._caller, name)
        return self._info

    async def remove(self, *, force: bool = False) -> None:
        """Removes it and its files; raises Conflict when it runs, unless forced."""
        name = self._lasting()
        await self._live.drop()
        await self._kernel.remove(self._caller, name, force=force)

    async def rename(self, new_name: str) -> SandboxInfo:
        """Gives it another name; raises Conflict for one that is taken, InvalidInput for what is no name."""
        self._info = await self._kernel.rename(self._caller, self._lasting(), text("new_name", new_name))
        return self._info

    async def extend(self, ttl: float | str | None) -> SandboxInfo:
        """Lets it expire so long from now (seconds, or `1h`); None: never. Raises InvalidInput for what is no time."""
        self._info = await self._kernel.extend(self._caller, self._lasting(), seconds("ttl", ttl))
        return self._info

    async def relabel(self, labels: Mapping[str, str]) -> SandboxInfo:
        """Replaces its labels, all of them; raises InvalidInput for what is no mapping."""
        self._info = await self._kernel.relabel(self._caller, self._lasting(), labels_of(labels))
        return self._info

    async def logs(self, *, exec_id: int = 0, since: float = 0.0, follow: bool = False) -> AsyncIterator[LogEntry]:
        """The recorded output of its background commands (of one, with `exec_id`) from the Unix time `since` on, oldest first.

        With `follow` it goes on with what they print. Raises InvalidInput for what is no time or no id.
        """
        since = moment("since", since)
        async for entry in self._kernel.logs(self._caller, self._lasting(), exec_id=number("exec_id", exec_id), since=since, follow=follow):
            yield entry

    async def close(self) -> None:
        """Lets go of it; foreground commands of this client end, all else goes on."""
        await self._live.drop()

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    async def _start(self, command: Command) -> Process:
        async with self._live.use() as sandbox:
            return await sandbox.start(command)

    def _lasting(self) -> str:
        if self._handle is not None:
            raise Conflict("a sandbox made by `sandbox` lives as long as its block and no longer", hint="make one that lasts with `create`")
        return self.id
