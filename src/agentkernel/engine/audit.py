"""The event stream: one line for every operation, refused ones too. Who reads it: `audit`, watchers, metrics.

Details are text. The values of environment variables are never among them; the words of a command are, as they were given.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from agentkernel.abc import Store
from agentkernel.engine.faults import host_errors
from agentkernel.errors import AgentKernelError, StoreFailed
from agentkernel.model.command import Command, ExitStatus
from agentkernel.model.record import Event, EventFilter, SandboxRecord
from agentkernel.model.request import SandboxRequest

MAX_ARGV_CHARACTERS = 4096
MAX_LATE = 10_000  # events that wait for a disk with room
T = TypeVar("T")
Details = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """What an operation is about, as far as it is known."""

    principal: str
    sandbox: str = ""
    backend: str = ""


class Audit:
    """Makes events, stores them and wakes those who follow."""

    def __init__(self, store: Callable[[], Store], clock: Callable[[], float] = time.time, *, keep: int | None = None) -> None:
        """`keep`: of a store in memory, about how many events stay; None: somebody else prunes."""
        self._store = store
        self._keep = keep
        self._since_pruned = 0
        self._clock = clock
        self._followers: set[asyncio.Event] = set()
        self._late: deque[Event] = deque(maxlen=MAX_LATE)

    def event(
        self,
        kind: str,
        principal: str,
        record: SandboxRecord | None = None,
        *,
        exec_id: int = 0,
        outcome: str = "ok",
        details: Details = (),
    ) -> Event:
        """An event, not yet stored: it goes into the store together with the change that it tells of."""
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
        self.announce()

    def announce(self) -> None:
        """Events were stored: whoever follows reads on."""
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
            event = self.event(kind, subject.principal, outcome=error.code, details=details)
            self.append(replace(event, sandbox=subject.sandbox, backend=subject.backend))
            raise

    async def told(self, kind: str, subject: Subject, work: Awaitable[T]) -> T:
        """The result of `work`; if it fails, that is noted."""
        with self.failures(kind, subject):
            return await work

    async def follow(self, wanted: EventFilter, *, follow: bool) -> AsyncIterator[Event]:
        """Yields the stored events that match, at most `wanted.limit`; with `follow` all of them, and then those to come."""
        bell = asyncio.Event()
        self._followers.add(bell)
        try:
            while True:
                bell.clear()
                found = self._store().events(wanted)
                for event in found:
                    yield event
                if not follow:
                    return
                if found:
                    wanted = replace(wanted, after=found[-1].event_id)
                else:
                    await bell.wait()
        finally:
            self._followers.discard(bell)


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


def words(argv: tuple[bytes, ...]) -> str:
    """A command line as a shell would read it; what is no text shows as escapes, and a long one is cut."""
    text = shlex.join(word.decode("utf-8", "backslashreplace") for word in argv)
    return text if len(text) <= MAX_ARGV_CHARACTERS else text[:MAX_ARGV_CHARACTERS] + "..."
