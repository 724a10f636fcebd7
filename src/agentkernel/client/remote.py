"""The kernel behind the daemon's socket: `abc.Kernel` as calls of the door protocol."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any, Final

from agentkernel import __version__
from agentkernel.abc import Caller, Run, Sandbox, Visit
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import Failure
from agentkernel.channel.wire import MAX_PAYLOAD
from agentkernel.client.connection import Connection, Daemon
from agentkernel.client.hold import held, visited
from agentkernel.client.once import run_once
from agentkernel.client.sandbox import Door, open_behind_door
from agentkernel.errors import Conflict, InvalidInput, NotFound, OutputTooLarge, ProtocolViolation
from agentkernel.model.codec import from_json, to_json
from agentkernel.model.command import Command
from agentkernel.model.image import ImageProgress, ImageRecord, ImageWork
from agentkernel.model.isolation import BackendKind, Fingerprint, IsolationLevel
from agentkernel.model.network import EgressChange, EgressRules, PortRule, PublishedPort
from agentkernel.model.operation import OPERATIONS
from agentkernel.model.record import CreateOptions, Event, EventFilter, KernelStatus, Labels, LogEntry, SandboxFilter, SandboxInfo
from agentkernel.model.request import Grant, Notice, SandboxRequest
from agentkernel.model.spec import SandboxSpec, WorkspaceMode
from agentkernel.model.status import Status

PAGE: Final = 100  # sandboxes whose description mostly fits one frame; with many labels fewer do
CALLS_AT_ONCE: Final = 192  # of those that are answered at once; the daemon takes 256 of one connection, and the rest is for who follows
POLL_S: Final = 20.0  # how long the daemon holds a question for what is to come


class RemoteKernel:
    """Implements `abc.Kernel` over the socket of the user's daemon, which is started when the first call finds none.

    The daemon takes its caller from the socket, and from what each connection says at its beginning where the kernel was made for a
    `caller` that may do less: what its methods are given is not sent. A daemon that ends in the middle of a call is followed to its
    successor; a mutating call is repeated with its key, so that it is done once. Belongs to one event loop.
    """

    def __init__(self, environment: Mapping[str, str], caller: Caller | None = None) -> None:
        self._daemon = Daemon(environment, caller)
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._room = asyncio.Semaphore(CALLS_AT_ONCE)
        self._levels: dict[str, IsolationLevel] = {}
        self._closed = False

    # -- deciding

    async def fingerprints(self, caller: Caller) -> Sequence[Fingerprint]:
        """See `abc.Kernel`."""
        found: tuple[Fingerprint, ...] = await self._call("fingerprints")
        self._levels |= {each.backend: each.level for each in found}
        return found

    async def grant(self, caller: Caller, request: SandboxRequest) -> Grant:
        """See `abc.Kernel`."""
        grant: Grant = await self._call("grant", request=self._daemon.told(request))
        self._levels.setdefault(grant.backend, grant.spec.level)
        return grant

    async def aftermath(self, caller: Caller, grant: Grant) -> Sequence[Notice]:
        """See `abc.Kernel`."""
        if grant.spec.workspace.mode is not WorkspaceMode.WRITABLE:
            return ()  # nothing of the host could be changed, and a daemon elsewhere may be away
        notices: tuple[Notice, ...] = await self._call("aftermath", grant=grant)
        return notices

    def isolation_of(self, backend: str) -> IsolationLevel:
        """The level that the daemon has told of that backend; raises NotFound before it has told any."""
        if backend not in self._levels:
            raise NotFound(f"backend {backend!r} has not been probed", hint="run `agentkernel doctor`")
        return self._levels[backend]

    # -- sandboxes

    def sandbox(self, caller: Caller, request: SandboxRequest) -> AbstractAsyncContextManager[tuple[Sandbox, Grant]]:
        """A sandbox for a block; see `client.hold`."""
        return self._sandbox(caller, request)

    @asynccontextmanager
    async def run(self, caller: Caller, request: SandboxRequest, command: Command) -> AsyncIterator[Run]:
        """See `abc.Kernel` and `client.once`: many go over one connection, and the daemon takes 1,024 at a time."""
        async with run_once(await self._connected(), self._daemon.told(request), command) as run:
            self._levels.setdefault(run.backend, run.isolation)
            yield run

    async def create(self, caller: Caller, request: SandboxRequest, options: CreateOptions) -> SandboxInfo:
        """See `abc.Kernel`."""
        key = options.request_key or _new_key()
        return self._known(await self._call("create", key, request=self._daemon.told(request), options=replace(options, request_key=key)))

    async def start(self, caller: Caller, name: str, secret_values: dict[str, str] | None = None) -> SandboxInfo:
        """See `abc.Kernel`."""
        more: dict[str, Any] = {"secret_values": secret_values} if secret_values else {}
        return self._known(await self._call("start", name=name, **more))

    async def stop(self, caller: Caller, name: str) -> SandboxInfo:
        """See `abc.Kernel`."""
        return self._known(await self._call("stop", name=name))

    async def remove(self, caller: Caller, name: str, *, force: bool = False) -> None:
        """See `abc.Kernel`."""
        connection = await self._connected()
        before = connection.attaches
        try:
            await self._call("remove", name=name, force=force)
        except NotFound:
            if connection.attaches == before:
                raise  # else a daemon that is gone has done it, and could not say so any more

    async def sandboxes(self, caller: Caller, wanted: SandboxFilter) -> Sequence[SandboxInfo]:
        """See `abc.Kernel`."""
        found: list[SandboxInfo] = []
        most = PAGE
        while True:
            limit = min(most, wanted.limit - len(found)) if wanted.limit > most else wanted.limit  # what is wrong with it the daemon says
            try:
                page: tuple[SandboxInfo, ...] = await self._call("list", wanted=replace(wanted, limit=limit))
            except OutputTooLarge:
                if limit == 1:
                    raise
                most = limit // 2
                continue
            found += page
            if len(page) < limit or len(found) >= wanted.limit:
                return found
            wanted = replace(wanted, after=page[-1].sandbox_id)

    async def info(self, caller: Caller, name: str) -> SandboxInfo:
        """See `abc.Kernel`."""
        return self._known(await self._call("info", name=name))

    async def spec(self, caller: Caller, name: str) -> SandboxSpec:
        """See `abc.Kernel`."""
        spec: SandboxSpec = await self._call("spec", name=name)
        return spec

    async def open(self, caller: Caller, name: str) -> Sandbox:
        """See `abc.Kernel`."""
        return await self._opened(caller, name, {})

    async def _opened(self, caller: Caller, name: str, given: Mapping[str, str]) -> Sandbox:
        """`given`: variables that a daemon which has taken the sandbox up by its row no longer knows."""
        info, spec = await asyncio.gather(self.info(caller, name), self.spec(caller, name))
        spec = replace(spec, environment=tuple(sorted({**dict(spec.environment), **given}.items())))
        if info.status is not Status.RUNNING:
            raise Conflict(f"the sandbox {info.name!r} is {info.status}", hint=f"run `agentkernel start {info.name}`")
        ident = info.sandbox_id
        return await open_behind_door(
            Door(
                daemon=self._daemon,
                backend=info.backend,
                sandbox_id=ident,
                spec=spec,
                address=name if "@" in name else "",
                on_stop=lambda: self.stop(caller, ident),
                on_destroy=lambda: self.remove(caller, ident, force=True),
            )
        )

    def visit(self, caller: Caller, name: str) -> AbstractAsyncContextManager[Visit]:
        """See `abc.Kernel`."""
        return self._visit(caller, name)

    async def rename(self, caller: Caller, name: str, new_name: str) -> SandboxInfo:
        """See `abc.Kernel`."""
        connection = await self._connected()
        before = connection.attaches
        try:
            return self._known(await self._call("rename", name=name, new_name=new_name))
        except NotFound:
            if connection.attaches == before:
                raise
            return await self.info(caller, new_name)  # a daemon that is gone has done it

    async def extend(self, caller: Caller, name: str, ttl_s: float | None) -> SandboxInfo:
        """See `abc.Kernel`."""
        return self._known(await self._call("extend", name=name, ttl_s=ttl_s))

    async def relabel(self, caller: Caller, name: str, labels: Labels) -> SandboxInfo:
        """See `abc.Kernel`."""
        return self._known(await self._call("relabel", name=name, labels=labels))

    # -- its network

    async def network(self, caller: Caller, name: str) -> EgressRules:
        """See `abc.Kernel`."""
        rules: EgressRules = await self._call("network", name=name)
        return rules

    async def change_network(self, caller: Caller, name: str, change: EgressChange) -> EgressRules:
        """See `abc.Kernel`."""
        rules: EgressRules = await self._call("change_network", name=name, change=change)
        return rules

    async def publish(self, caller: Caller, name: str, rule: PortRule) -> PublishedPort:
        """See `abc.Kernel`."""
        published: PublishedPort = await self._call("publish", name=name, rule=rule)
        return published

    async def unpublish(self, caller: Caller, name: str, port: int) -> None:
        """See `abc.Kernel`."""
        await self._call("unpublish", name=name, port=port)

    async def ports(self, caller: Caller, name: str) -> Sequence[PublishedPort]:
        """See `abc.Kernel`."""
        ports: tuple[PublishedPort, ...] = await self._call("ports", name=name)
        return ports

    # -- images

    async def image_begin(self, caller: Caller, work: ImageWork) -> str:
        """See `abc.Kernel`."""
        job_id: str = await self._call("image_begin", work=work)
        return job_id

    async def image_follow(self, caller: Caller, job_id: str, *, after: int = 0, follow: bool = False) -> AsyncIterator[ImageProgress]:
        """See `abc.Kernel`; asked for page by page."""
        while True:
            page: tuple[ImageProgress, ...] = await self._call("image_follow", job_id=job_id, after=after, wait_s=POLL_S if follow else 0.0)
            for step in page:
                yield step
            after += len(page)
            if (page and page[-1].is_last) or (not page and not follow):
                return

    async def images(self, caller: Caller, backend: str = "") -> Sequence[ImageRecord]:
        """See `abc.Kernel`."""
        found: tuple[ImageRecord, ...] = await self._call("images", backend=backend)
        return found

    async def image_remove(self, caller: Caller, reference: str, backend: str = "") -> None:
        """See `abc.Kernel`."""
        connection = await self._connected()
        before = connection.attaches
        try:
            await self._call("image_remove", reference=reference, backend=backend)
        except NotFound:
            if connection.attaches == before:
                raise  # else a daemon that is gone has done it

    async def image_prune(self, caller: Caller, unused_for_s: float, backend: str = "") -> Sequence[str]:
        """See `abc.Kernel`."""
        lines: tuple[str, ...] = await self._call("image_prune", unused_for_s=unused_for_s, backend=backend)
        return lines

    # -- what is recorded

    async def logs(
        self, caller: Caller, name: str, *, exec_id: int = 0, since: float = 0.0, follow: bool = False
    ) -> AsyncIterator[LogEntry]:
        """See `abc.Kernel`; asked for page by page."""
        name = (await self.info(caller, name)).sandbox_id if follow else name  # which stays when it is renamed
        while True:
            wait_s = POLL_S if follow else 0.0
            try:
                page: tuple[LogEntry, ...] = await self._call("logs", name=name, exec_id=exec_id, since=since, wait_s=wait_s)
            except NotFound:
                if not follow:
                    raise
                return  # it was removed
            for entry in page:
                yield entry
                since = entry.at  # no two entries of a log have the same
            if not page and not follow:
                return

    async def collect_garbage(self, caller: Caller, *, dry_run: bool = False) -> Sequence[str]:
        """See `abc.Kernel`."""
        lines: tuple[str, ...] = await self._call("gc", dry_run=dry_run)
        return lines

    async def events(self, caller: Caller, wanted: EventFilter, *, follow: bool = False) -> AsyncIterator[Event]:
        """See `abc.Kernel`; asked for page by page."""
        left = wanted.limit
        while True:
            wait_s = POLL_S if follow else 0.0
            page: tuple[Event, ...] = await self._call("events", wanted=wanted, wait_s=wait_s)
            for event in page:
                yield event
                wanted = replace(wanted, after=event.event_id)
            left -= len(page)
            if not follow:
                if not page or left <= 0:
                    return
                wanted = replace(wanted, limit=left)

    async def status(self, caller: Caller) -> KernelStatus:
        """See `abc.Kernel`."""
        status: KernelStatus = await self._call("status")
        return status

    async def close(self) -> None:
        """Closes the connection; sandboxes and background commands live on. Handles that `open` gave are closed by themselves."""
        self._closed = True
        if self._connection is not None:
            await self._connection.close()

    # -- parts of the above

    @asynccontextmanager
    async def _sandbox(self, caller: Caller, request: SandboxRequest) -> AsyncIterator[tuple[Sandbox, Grant]]:
        async with held(self._daemon, self._daemon.told(request)) as (ident, notices):
            sandbox = await self._opened(caller, ident, request.environment)
            chosen = BackendKind.CHOSEN if request.backend is None else BackendKind.ASKED
            try:
                yield sandbox, Grant(spec=sandbox.spec, backend=sandbox.backend, chosen=chosen, notices=notices)
            finally:
                await sandbox.close()

    @asynccontextmanager
    async def _visit(self, caller: Caller, name: str) -> AsyncIterator[Visit]:
        visit: Visit | None = None
        try:
            async with visited(self._daemon, name) as hold:
                sandbox = await self._opened(caller, hold.sandbox_id, {})
                visit = Visit(sandbox=sandbox, is_started=bool(hold.notices))
                try:
                    yield visit
                finally:
                    await sandbox.close()
        finally:
            if visit is not None:
                visit.goes_on = hold.goes_on

    async def _call(self, operation: str, key: str = "", **parameters: Any) -> Any:
        """One CALL and its answer, as the table of operations types them."""
        said = {name: to_json(value) for name, value in parameters.items()}
        if OPERATIONS[operation].mutates:
            said["key"] = key or _new_key()
        payload = json.dumps({"op": operation, **said}).encode()
        if len(payload) > MAX_PAYLOAD:
            raise InvalidInput(f"the request takes {len(payload)} bytes, at most {MAX_PAYLOAD} can be sent", hint="pass less environment")
        connection = await self._connected()
        async with nullcontext() if said.get("wait_s") else self._room:
            answer = await connection.request(FrameType.CALL, payload)
        if isinstance(answer, Failure):
            raise ProtocolViolation(f"the daemon refused {operation!r} as an agent would")
        result = OPERATIONS[operation].result
        if result is None:
            return None
        try:
            return from_json(result, json.loads(answer))
        except ValueError as error:
            raise ProtocolViolation(f"the daemon's answer to {operation!r} is no JSON: {error}") from error

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._closed:
                raise Conflict("the client is closed", hint="make a new one")
            if self._connection is None or self._connection.error is not None:
                self._connection = None
                connection = Connection(self._daemon)
                await connection.open()
                connection.say(FrameType.CALL, json.dumps({"op": "hello", "version": __version__}).encode())
                self._connection = connection
            return self._connection

    def _known(self, info: SandboxInfo) -> SandboxInfo:
        self._levels.setdefault(info.backend, info.isolation)
        return info


def _new_key() -> str:
    return os.urandom(16).hex()
