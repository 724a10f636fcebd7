"""One sandbox, from threads: the twin of `sdk.aio.sandbox`, whose docstrings tell more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Unpack

from agentkernel.channel import gather
from agentkernel.model.inspection import ProcessRecord, SandboxStatistics
from agentkernel.model.network import Decision, EgressRules, PublishedPort
from agentkernel.model.record import LogEntry, SandboxInfo
from agentkernel.model.request import Notice
from agentkernel.sdk.aio.sandbox import AsyncSandbox, Words
from agentkernel.sdk.options import CommandOptions
from agentkernel.sdk.result import Result
from agentkernel.sdk.sync.files import Files
from agentkernel.sdk.sync.portal import Portal
from agentkernel.sdk.sync.process import Connection, Input, Process, Stream, pieces


class Sandbox:
    """A sandbox. As a context manager it lets go at the end, without ending it: what `create` made lives on until it is removed.

    Every call raises NotFound when the sandbox is gone, Conflict when it does not run, and SandboxLost when it died meanwhile: then it is
    not known whether the call took effect. Of a sandbox of a block the calls about its life (`info` to `logs`) raise Conflict. Any thread
    may call it; Ctrl-C in the middle of a call ends what the call had started.
    """

    def __init__(self, portal: Portal, sandbox: AsyncSandbox) -> None:
        self._portal = portal
        self._async = sandbox

    @property
    def id(self) -> str:
        """16 hexadecimal digits, for ever."""
        return self._async.id

    @property
    def name(self) -> str:
        """Its name, as last heard."""
        return self._async.name

    @property
    def backend(self) -> str:
        """The name of the backend that made it."""
        return self._async.backend

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What there was to say about the request, such as that there is no stronger isolation here."""
        return self._async.notices

    @cached_property
    def files(self) -> Files:
        """Its files."""
        return Files(self._portal, self._async.files)

    # -- commands

    def exec(self, *argv: Words, stdin: Input | None = None, check: bool = False, **options: Unpack[CommandOptions]) -> Result:
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
        return self._portal.call(lambda: self._async.exec(*argv, stdin=_input(stdin), check=check, **options))

    def stream(self, *argv: Words, stdin: Input | None = None, **options: Unpack[CommandOptions]) -> Stream:
        """Runs one command whose output is read while it runs: `for chunk in sandbox.stream(...)`. It ends with its reader.

        While nobody reads, the command waits after 256 KiB of each stream; output is never cut. Raises what `exec` raises when it is read.
        """
        return Stream(self._portal, self._async.stream(*argv, stdin=_input(stdin), **options))

    def spawn(self, *argv: Words, stdin: bool = False, **options: Unpack[CommandOptions]) -> Process:
        """Starts a background command, which goes on when this client ends. With `stdin` it can be written to.

        Its latest 256 KiB of each stream are kept for whoever reads them; all of it is in `logs`, within the engine's limits. With `tty` it
        has a terminal: `write` types on it, `resize` sets its size. Raises what `exec` raises, but TimedOut, which `wait` tells.
        """
        return Process(self._portal, self._portal.call(lambda: self._async.spawn(*argv, stdin=stdin, **options)))

    def process(self, exec_id: int) -> Process:
        """Takes up a command that runs, or has run; its output goes on from what is still kept. Raises NotFound, InvalidInput."""
        return Process(self._portal, self._portal.call(lambda: self._async.process(exec_id)))

    def processes(self) -> Sequence[ProcessRecord]:
        """The commands that run, and those that ended and whose result nobody has taken."""
        return self._portal.call(self._async.processes)

    def kill_commands(self) -> None:
        """SIGKILL for the whole tree of every command, whoever started it."""
        self._portal.call(self._async.kill_commands)

    def statistics(self) -> SandboxStatistics:
        """Numbers from inside, with the unit in each name: `uptime_ms`, `rss_bytes` and `cpu_us` of all processes together, ..."""
        return self._portal.call(self._async.statistics)

    def connect(self, port: int) -> Connection:
        """Connects to a TCP port (1-65535) on the sandbox's loopback; a refused connection shows at the first `receive`.

        Raises InvalidInput for what is no port.
        """
        return Connection(self._portal, self._portal.call(lambda: self._async.connect(port)))

    # -- its network

    def network(self) -> EgressRules:
        """Who it may talk to; raises Unsupported when its network is not filtered: it has none, or the host's."""
        return self._portal.call(self._async.network)

    def allow(self, *hosts: str) -> EgressRules:
        """Lets it talk to more: `example.com`, `*.example.com`, `db.example.com:5432`, `10.0.0.0/8:22`. Without ports 80 and 443 are meant.

        Holds for new connections, at once and for as long as the sandbox exists. A rule that denies wins. Raises InvalidInput, Unsupported.
        """
        return self._portal.call(lambda: self._async.allow(*hosts))

    def deny(self, *hosts: str) -> EgressRules:
        """Forbids destinations (without ports: all ports); open connections to them end. Raises InvalidInput, Unsupported."""
        return self._portal.call(lambda: self._async.deny(*hosts))

    def forget(self, *hosts: str) -> EgressRules:
        """Drops rules, written as they were made, wherever they stand; one that is not there is fine. Raises InvalidInput, Unsupported."""
        return self._portal.call(lambda: self._async.forget(*hosts))

    def network_log(self, *, since: float = 0.0, follow: bool = False) -> Iterator[Decision]:
        """What it tried to reach, from the Unix time `since` on, oldest first, and what became of it; with `follow` it goes on.

        Raises InvalidInput for what is no time.
        """
        return self._portal.iterate(lambda: self._async.network_log(since=since, follow=follow))

    def publish(self, port: int | str, host_port: int = 0) -> PublishedPort:
        """Listens on this host's loopback for a port inside, until it is unpublished or the sandbox stops.

        Args:
            port: inside, on its loopback; or all of it as text, such as `8080:80`.
            host_port: on the host; 0: one that is free, see what is returned.

        Raises:
            InvalidInput, Refused: there is no such port, or others than this host could reach it.
            Conflict: the host's port is taken, or the sandbox does not run.
        """
        return self._portal.call(lambda: self._async.publish(port, host_port))

    def unpublish(self, port: int) -> None:
        """Ends that, with its connections; a port inside that is not published is fine. Raises InvalidInput for what is no number."""
        self._portal.call(lambda: self._async.unpublish(port))

    def ports(self) -> Sequence[PublishedPort]:
        """What is published of it, by the port inside."""
        return self._portal.call(self._async.ports)

    # -- life

    def info(self) -> SandboxInfo:
        """Describes it as it is now, running or not."""
        return self._portal.call(self._async.info)

    def start(self) -> SandboxInfo:
        """Boots it with its files; one that runs is fine. Raises LaunchFailed, BackendUnavailable, Busy."""
        return self._portal.call(self._async.start)

    def stop(self) -> SandboxInfo:
        """Ends everything in it and keeps its files; one that is stopped is fine."""
        return self._portal.call(self._async.stop)

    def remove(self, *, force: bool = False) -> None:
        """Removes it and its files; raises Conflict when it runs, unless forced."""
        self._portal.call(lambda: self._async.remove(force=force))

    def rename(self, new_name: str) -> SandboxInfo:
        """Gives it another name; raises Conflict for one that is taken, InvalidInput for what is no name."""
        return self._portal.call(lambda: self._async.rename(new_name))

    def extend(self, ttl: float | str | None) -> SandboxInfo:
        """Lets it expire so long from now (seconds, or `1h`); None: never. Raises InvalidInput for what is no time."""
        return self._portal.call(lambda: self._async.extend(ttl))

    def relabel(self, labels: Mapping[str, str]) -> SandboxInfo:
        """Replaces its labels, all of them; raises InvalidInput for what is no mapping."""
        return self._portal.call(lambda: self._async.relabel(labels))

    def logs(self, *, exec_id: int = 0, since: float = 0.0, follow: bool = False) -> Iterator[LogEntry]:
        """The recorded output of its background commands (of one, with `exec_id`) from the Unix time `since` on, oldest first.

        With `follow` it goes on with what they print. Raises InvalidInput for what is no time or no id.
        """
        return self._portal.iterate(lambda: self._async.logs(exec_id=exec_id, since=since, follow=follow))

    def close(self) -> None:
        """Lets go of it; foreground commands of this client end, all else goes on."""
        self._portal.call(self._async.close)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _input(data: Input | None) -> gather.Input | None:
    """As the async API takes it: what is no text, bytes or iterable is its business."""
    if data is None or isinstance(data, bytes | bytearray | memoryview | str) or not isinstance(data, Iterable):
        return data
    return pieces(data)
