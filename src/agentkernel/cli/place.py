"""The sandboxes that a command runs in: one made for it, a lasting one, or one that is made to last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from agentkernel.abc import Caller, Kernel, Sandbox
from agentkernel.config.invocation import check_backend
from agentkernel.model.isolation import BackendKind
from agentkernel.model.record import CreateOptions
from agentkernel.model.request import Grant, Notice, SandboxRequest

Place = Callable[[Kernel, Caller], AbstractAsyncContextManager[tuple[Sandbox, Grant]]]
Fetch = Callable[[Kernel, Caller, SandboxRequest], Awaitable[SandboxRequest]]  # the request, once its image is here


def made_for_it(request: SandboxRequest, fetch: Fetch) -> Place:
    """A sandbox that is removed after the command."""

    @asynccontextmanager
    async def place(kernel: Kernel, caller: Caller) -> AsyncIterator[tuple[Sandbox, Grant]]:
        async with kernel.sandbox(caller, await fetch(kernel, caller, request)) as made:
            yield made

    return place


def lasting(name: str, backend: str | None = None) -> Place:
    """A running sandbox; raises NotFound, and Conflict when it does not run or is of another backend."""

    @asynccontextmanager
    async def place(kernel: Kernel, caller: Caller) -> AsyncIterator[tuple[Sandbox, Grant]]:
        if backend is not None:
            check_backend(backend, (await kernel.info(caller, name)).backend, name)
        async with _opened(kernel, caller, name) as opened:
            yield opened

    return place


def made_to_last(request: SandboxRequest, fetch: Fetch, told: Callable[[str], None]) -> Place:
    """A new sandbox that stays when the command has ended; `told` gets its name."""

    @asynccontextmanager
    async def place(kernel: Kernel, caller: Caller) -> AsyncIterator[tuple[Sandbox, Grant]]:
        info = await kernel.create(caller, await fetch(kernel, caller, request), CreateOptions(name=request.name, start=True))
        told(info.name)
        async with _opened(kernel, caller, info.sandbox_id, info.notices) as opened:
            yield opened

    return place


@asynccontextmanager
async def _opened(kernel: Kernel, caller: Caller, name: str, notices: tuple[Notice, ...] = ()) -> AsyncIterator[tuple[Sandbox, Grant]]:
    sandbox = await kernel.open(caller, name)
    try:
        yield sandbox, Grant(spec=sandbox.spec, backend=sandbox.backend, chosen=BackendKind.ASKED, notices=notices)
    finally:
        await sandbox.close()
