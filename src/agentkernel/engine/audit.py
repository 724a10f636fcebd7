"""The event stream: one line for every operation, refused ones too. Who reads it: `audit`, watchers, metrics.

Details are text. The values of environment variables are never among them; the words of a command are, as they were given.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shlex
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from agentkernel.abc import Caller, Store
from agentkernel.engine.locks import host_errors
from agentkernel.errors import AgentKernelError, StoreFailed
from agentkernel.model.command import Command, ExitStatus
from agentkernel.model.network import PublishedPort
from agentkernel.model.record import Event, EventFilter, SandboxRecord
from agentkernel.model.request import SandboxRequest

MAX_CHARACTERS: Final = 4096  # of each text; callers may send much longer ones, and the trail is not to grow by these
MAX_LATE = 10_000  # events that wait for a disk with room
MAX_JOURNAL_BYTES: Final = 4 * 1024 * 1024
JOURNAL_TRIES: Final = 5  # before it is written without the lock: nobody waits here for another process
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_MAY_BE_EMPTY: Final = ("sandbox_id", "sandbox", "backend", "isolation", "exec_id", "details")
T = TypeVar("T")
Details = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """Who does what an operation does, and what it is about, as far as that is known."""

    who: Caller | str
    sandbox: str = ""
    backend: str = ""


class Audit:
    """Makes events, stores them and wakes those who follow."""

    def __init__(
        self,
        store: Callable[[], Store],
        clock: Callable[[], float] = time.time,
        *,
        keep: int | None = None,
        also: Callable[[Event], None] | None = None,
    ) -> None:
        """`keep`: of a store in memory, about how many events stay; None: somebody else prunes. `also` is given every event."""
        self._store = store
        self._also = also
        self._keep = keep
        self._since_pruned = 0
        self._clock = clock
        self._followers: set[asyncio.Event] = set()
        self._late: deque[Event] = deque(maxlen=MAX_LATE)

    def event(
        self,
        kind: str,
        who: Caller | str,
        record: SandboxRecord | None = None,
        *,
        exec_id: int = 0,
        outcome: str = "ok",
        details: Details = (),
    ) -> Event:
        """An event, not yet stored: it goes into the store together with the change that it tells of.

        `who`: the caller, whose token is told, or the principal on whose behalf the engine does something by itself.
        """
        principal, via = (who, "") if isinstance(who, str) else (who.principal, who.via)
        details = tuple((key, cut(value)) for key, value in (*details, *((("via", via),) if via else ())))
        if record is None:
            return Event(kind=kind, at=self._clock(), principal=principal, outcome=outcome, exec_id=exec_id, details=details)
        return Event(
            kind=kind,
            at=self._clock(),
            principal=principal,
            sandbox_id=record.sandbox_id,
            sandbox=record.name,
            backend=record.backend,
            isolation=record.isolation.label,
            outcome=outcome,
            exec_id=exec_id,
            details=details,
        )

    def append(self, event: Event) -> None:
        """Stores an event that belongs to no change of a sandbox's row. What the disk does not take now is stored with the next one."""
        self._late.append(event)
        with suppress(StoreFailed):  # a full disk must not end commands that run: their events wait in memory
            while self._late:
                self._store().append(self._late[0])
                self._late.popleft()
        self.announce(event)

    def announce(self, event: Event | None = None) -> None:
        """Events were stored, `event` perhaps: whoever follows reads on."""
        if event is not None and self._also is not None:
            self._also(event)
        for follower in self._followers:
            follower.set()
        self._since_pruned += 1
        if self._keep is not None and self._since_pruned >= self._keep:
            self._since_pruned = 0
            self._store().prune_events(0.0, self._keep)

    @contextmanager
    def failures(self, kind: str, subject: Subject) -> Iterator[None]:
        """Notes that the block failed, with the error's code as outcome; the error goes on, what the host refused as SandboxFailed."""
        try:
            with host_errors():
                yield
        except AgentKernelError as error:
            details = (("reason", error.message),)
            event = self.event(kind, subject.who, outcome=error.code, details=details)
            self.append(replace(event, sandbox=_shown(subject.sandbox), backend=_shown(subject.backend)))
            raise

    async def told(self, kind: str, subject: Subject, work: Awaitable[T]) -> T:
        """The result of `work`; if it fails, that is noted."""
        with self.failures(kind, subject):
            return await work

    async def follow(
        self, wanted: EventFilter, *, follow: bool, concerns: Callable[[Event], bool] = lambda _: True, page: int = 0
    ) -> AsyncIterator[Event]:
        """Yields the stored events that match and concern, at most `wanted.limit`; with `follow` all of them, and then those to come.

        `page`: how many are read at once, when few of them will concern.
        """
        left, wanted = wanted.limit, replace(wanted, limit=page or wanted.limit)
        bell = asyncio.Event()
        self._followers.add(bell)
        try:
            while True:
                bell.clear()
                found = self._store().events(wanted)
                for event in filter(concerns, found):
                    yield event
                    left -= 1
                    if not follow and left == 0:
                        return
                if not follow and len(found) < wanted.limit:
                    return
                if found:
                    wanted = replace(wanted, after=found[-1].event_id)
                    await asyncio.sleep(0)  # a long trail of which little concerns keeps nobody waiting
                else:
                    await bell.wait()
        finally:
            self._followers.discard(bell)


class Journal:
    """What engines in process tell, whose stores end with them: appended to a file that is the user's own, for `journal` to take in."""

    def __init__(self, data_directory: str, max_bytes: int = MAX_JOURNAL_BYTES) -> None:
        """`max_bytes`: of one file; there are two, the older one is dropped for the next."""
        self._data_directory = data_directory
        self.directory = f"{data_directory}/audit"
        self.newer, self.older = f"{self.directory}/passing.jsonl", f"{self.directory}/passing.1.jsonl"
        self._max_bytes = max_bytes
        self._is_refused = False

    def write(self, event: Event) -> None:
        """Adds an event. What the disk does not take is lost: a command is not to fail for it."""
        if self._is_refused:
            return
        try:
            descriptor = self._opened()
            try:
                os.write(descriptor, _line(event))  # in one call, so that lines of others come before or after it
            finally:
                os.close(descriptor)
        except OSError:
            self._is_refused = True

    def _opened(self) -> int:
        """The file to append to, locked against being taken away."""
        for last in (*(False,) * JOURNAL_TRIES, True):
            try:
                descriptor = os.open(self.newer, _FLAGS, 0o600)
            except FileNotFoundError:
                os.makedirs(self._data_directory, mode=0o711, exist_ok=True)  # sandboxes' ids walk through it to their files
                os.makedirs(self.directory, mode=0o700, exist_ok=True)
                descriptor = os.open(self.newer, _FLAGS, 0o600)
            if last or self._is_ready(descriptor):
                return descriptor
            os.close(descriptor)
        raise AssertionError("the last try returns")

    def _is_ready(self, descriptor: int) -> bool:
        """Locks the file; False when it is not the one that is to be appended to (any more)."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            opened = os.fstat(descriptor)
            if os.stat(self.newer).st_ino != opened.st_ino:
                return False
            if opened.st_size < self._max_bytes:
                return True
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(self.newer).st_ino == opened.st_ino:
                os.rename(self.newer, self.older)
        except (BlockingIOError, FileNotFoundError):
            return False  # somebody renames it
        return False


def of_command(command: Command) -> Details:
    """What is told of a command: its words and the names of the variables it was given."""
    details = [("argv", words(command.argv))]
    if command.environment:
        details.append(("env", " ".join(sorted(os.fsdecode(name) for name in command.environment))))
    if command.cwd is not None:
        details.append(("cwd", command.cwd))
    if command.user is not None:
        details.append(("user", f"{command.user[0]}:{command.user[1]}"))
    flags = (("detached", command.detached), ("terminal", command.terminal is not None))
    return (*details, *((name, "yes") for name, on in flags if on))


def of_request(request: SandboxRequest) -> Details:
    """What is told of a request for a sandbox."""
    details = [("profile", request.profile)]
    if request.argv:
        details.append(("argv", words(request.argv)))
    if request.image is not None:
        details.append(("image", request.image))
    if request.environment:
        details.append(("env", " ".join(sorted(request.environment))))
    return tuple(details)


def of_end(status: ExitStatus) -> Details:
    """What is told of a command's end."""
    details = [("exit_code", str(status.exit_code)), ("cause", status.cause.value), ("wall_s", f"{status.wall_s:.3f}")]
    if status.limits_hit:
        details.append(("limits", " ".join(status.limits_hit)))
    return tuple(details)


def of_port(port: PublishedPort) -> Details:
    """What is told of a published port."""
    return (("port", str(port.port)), ("host_address", port.host_address), ("host_port", str(port.host_port)))


def words(argv: tuple[bytes, ...]) -> str:
    """A command line as a shell would read it; what is no text shows as escapes, and a long one is cut."""
    text = shlex.join(word.decode("utf-8", "backslashreplace") for word in argv)
    return cut(text)


def _shown(text: str) -> str:
    """What a caller has called something: a name that cannot be may be no Unicode, which no store takes, and shows as escapes."""
    return cut(text.encode("utf-8", "backslashreplace").decode())


def cut(text: str) -> str:
    """A text as the trail has it; one that is cut already stays as it is."""
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "..."


def _line(event: Event) -> bytes:
    found: dict[str, Any] = {"kind": event.kind, "at": float(event.at), "principal": event.principal, "outcome": event.outcome}
    found |= {name: value for name in _MAY_BE_EMPTY if (value := getattr(event, name))}
    return json.dumps(found).encode() + b"\n"
