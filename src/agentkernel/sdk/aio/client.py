"""The client: where sandboxes are made, found and listed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Unpack

from agentkernel import assembly
from agentkernel.abc import Caller, Kernel
from agentkernel.config.options import create_options, labels_of, statuses_of
from agentkernel.config.principal import principal_of
from agentkernel.errors import AgentKernelError, Conflict
from agentkernel.model.isolation import Fingerprint
from agentkernel.model.record import Event, EventFilter, KernelStatus, SandboxFilter
from agentkernel.model.status import Status
from agentkernel.sdk.aio.images import AsyncImages
from agentkernel.sdk.aio.sandbox import AsyncSandbox
from agentkernel.sdk.given import moment, text, texts
from agentkernel.sdk.options import LastingOptions, SandboxOptions, request_of
from agentkernel.sdk.place import environment_of

PAGE = 100


class AsyncClient:
    """Sandboxes through the daemon (started on demand), through one elsewhere, or with `local` by an engine in this process, whose
    sandboxes end with the client.

    Args:
        local: an engine in this process.
        socket: the daemon's socket, in place of AGENTKERNEL_SOCKET or the usual place.
        url: a daemon elsewhere, in place of the one that AGENTKERNEL_HOST names: `https://HOST[:PORT]`, `http://...` for a server
            (`agentkernel serve`), `unix:///PATH` for a socket.
        token: the server's; without it that of AGENTKERNEL_TOKEN or AGENTKERNEL_TOKEN_FILE, unless AGENTKERNEL_HOST names another server.
        kernel: a kernel made elsewhere, in place of all these; closed with the client.

    An instance belongs to one event loop. Every call raises Conflict when it is closed.

    Raises:
        InvalidInput: more than one of them, or no URL. At the first call of all:
        DaemonUnavailable: no daemon answers and none can be started.
        ServerUnavailable, CertificateUntrusted, VersionDiffers, DoorMissing, Unauthorized: the one elsewhere cannot be used.
    """

    def __init__(
        self,
        *,
        local: bool = False,
        socket: str | None = None,
        url: str | None = None,
        token: str | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        self._environment = environment_of(os.environ, local=local, socket=socket, url=url, token=token)
        self._local = local
        self._own = kernel
        self._closed = False
        self._caller = Caller(principal=principal_of(os.getuid()))

    @property
    def _kernel(self) -> Kernel:
        if self._closed:
            raise Conflict("the client is closed", hint="make a new one")
        if self._own is None:
            build = assembly.build_engine if self._local else assembly.build_client
            self._own = build(self._environment)
        return self._own

    @property
    def images(self) -> AsyncImages:
        """The images that sandboxes are made of."""
        return AsyncImages(lambda: self._kernel, self._caller)

    # -- sandboxes

    @asynccontextmanager
    async def sandbox(self, **options: Unpack[SandboxOptions]) -> AsyncIterator[AsyncSandbox]:
        """A running sandbox for one block, removed at its end: `async with client.sandbox(memory="512MiB") as box`.

        Raises:
            Refused, NotTrusted, Unsupported, BackendUnavailable: policy or this host says no; nothing was done.
            UnknownKey, InvalidInput: an option is wrong.
            LaunchFailed: it could not be built; nothing is left of it.
            Busy: too much at once; nothing was done.
        """
        request = request_of(options, self._environment)
        async with self._kernel.sandbox(self._caller, request) as (handle, _):
            yield AsyncSandbox(self._kernel, self._caller, None, handle)

    async def create(self, **options: Unpack[LastingOptions]) -> AsyncSandbox:
        """Makes a sandbox that lasts, running unless `start=False`; raises what `sandbox` raises, and Conflict for a name that is taken.

        A call that is cancelled leaves none.
        """
        request, lasting = request_of(options, self._environment), create_options(options)
        kernel = self._kernel
        making = asyncio.ensure_future(kernel.create(self._caller, request, lasting))
        try:
            info = await asyncio.shield(making)
        except asyncio.CancelledError:  # nobody would know of it; a second cancellation cuts this short
            with suppress(AgentKernelError):
                await kernel.remove(self._caller, (await making).sandbox_id, force=True)
            raise
        return AsyncSandbox(kernel, self._caller, info)

    async def get(self, name: str) -> AsyncSandbox:
        """A sandbox by its name or id, running or not; raises NotFound, InvalidInput."""
        return AsyncSandbox(self._kernel, self._caller, await self._kernel.info(self._caller, text("name", name)))

    async def list(
        self, *, labels: Mapping[str, str] | None = None, statuses: Sequence[Status | str] = (), backend: str = ""
    ) -> Sequence[AsyncSandbox]:
        """The caller's sandboxes by id, those with all of the labels and one of the statuses (`running`, `stopped`, ...).

        Raises UnknownKey for a status that there is not, InvalidInput for what is no list or no mapping.
        """
        found: list[AsyncSandbox] = []
        after = ""
        while True:
            page = await self._kernel.sandboxes(
                self._caller,
                SandboxFilter(
                    labels=labels_of(labels or {}),
                    statuses=statuses_of(statuses),
                    backend=backend,
                    after=after,
                    limit=PAGE,
                ),
            )
            found += [AsyncSandbox(self._kernel, self._caller, info) for info in page]
            if len(page) < PAGE:
                return found
            after = page[-1].sandbox_id

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Removes a sandbox and its files; raises NotFound, and Conflict when it runs, unless forced."""
        await self._kernel.remove(self._caller, text("name", name), force=force)

    # -- the kernel

    async def fingerprints(self) -> Sequence[Fingerprint]:
        """What every backend can do on this host, by trying it, which takes some seconds the first time."""
        return await self._kernel.fingerprints(self._caller)

    async def events(
        self, *, sandbox: str = "", kinds: Sequence[str] = (), since: float = 0.0, follow: bool = False
    ) -> AsyncIterator[Event]:
        """The audit trail, oldest first: of one sandbox, of some kinds (`exec.` are all that begin so), from a Unix time on.

        With `follow` it goes on with what is done from now on. Raises InvalidInput for what is no list or no time.
        """
        wanted = EventFilter(sandbox=text("sandbox", sandbox), kinds=texts("kinds", kinds), since=moment("since", since), limit=PAGE)
        while True:
            count = 0
            async for event in self._kernel.events(self._caller, wanted, follow=follow):
                count += 1
                wanted = replace(wanted, after=event.event_id)
                yield event
            if count < PAGE:
                return

    async def collect_garbage(self, *, dry_run: bool = False) -> Sequence[str]:
        """Removes what has expired and what belongs to no sandbox; returns one line for each thing."""
        return await self._kernel.collect_garbage(self._caller, dry_run=dry_run)

    async def status(self) -> KernelStatus:
        """The engine at a glance: its version, how many sandboxes there are and run, `rss_bytes`, `started_at` in Unix seconds, ..."""
        return await self._kernel.status(self._caller)

    async def close(self) -> None:
        """Ends foreground commands of this client, and with `local` its sandboxes; all else lives on. Repeating it is fine."""
        self._closed = True
        if self._own is not None:
            await self._own.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()
