"""What a tool works with: the kernel, on whose behalf, and what the operator lends the model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from agentkernel.abc import Caller, Kernel, Sandbox
from agentkernel.config.load import OriginKind, Settings
from agentkernel.errors import AgentKernelError, Conflict, InvalidInput, NotFound, Refused
from agentkernel.mcp.made import check_made
from agentkernel.mcp.wishes import requested, tightened
from agentkernel.model.names import is_sandbox_id, validate_name
from agentkernel.model.record import CreateOptions, Labels, SandboxFilter, SandboxInfo
from agentkernel.model.request import SandboxRequest
from agentkernel.model.status import Status

MADE_BY: Final = ("agentkernel.made-by", "mcp")  # the label of every sandbox that is made here
PUBLISH: Final = "publish"
ALLOW_HOSTS: Final = "allow-hosts"
MANAGE_SHARED: Final = "manage-shared"
_PAGE: Final = 100

Tell = Callable[[str], Awaitable[None]]  # progress: one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What the one who started the server has decided. `shared`: names or ids of sandboxes that the model uses though they were not made
    here. `grants`: what it may do beyond running things: PUBLISH, ALLOW_HOSTS, MANAGE_SHARED."""

    settings: Settings
    environment: Mapping[str, str]
    shared: frozenset[str] = frozenset()
    grants: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """One caller's view. `temporary`: ids of sandboxes that end with the server."""

    kernel: Kernel
    caller: Caller
    operator: Operator
    temporary: set[str] = field(default_factory=set)

    def request(self, wishes: Mapping[str, object]) -> SandboxRequest:
        """The sandbox that the model may have; raises what `wishes.tightened` raises."""
        return requested(tightened(self.operator.settings, wishes), self.operator.environment)

    def timeout_s(self, wish: float | None, default: float) -> float | None:
        """How long a command may take: the wish, or the operator's setting, or `default`; None: without end, where the operator says so."""
        allowed = self.operator.settings.get("timeout")
        if wish is None:
            return (allowed or None) if allowed is not None else default
        return float(tightened(self.operator.settings, {"timeout_s": wish}).get("timeout")) or None

    def require(self, grant: str, what: str) -> None:
        """Raises Refused unless the operator has granted it."""
        if grant not in self.operator.grants:
            raise Refused(f"the operator of this server has not allowed to {what}", hint=f"start it as `agentkernel mcp --may {grant}`")

    async def find(self, name: str) -> SandboxInfo:
        """A sandbox by its name or id; raises InvalidInput for what is neither, and NotFound, also for one that is not the model's."""
        _check_name(name)
        try:
            info = await self.kernel.info(self.caller, name)
        except NotFound:
            raise _not_found(name) from None
        if not self._lent(info):
            raise _not_found(name)
        return info

    async def usable(self, name: str) -> SandboxInfo:
        """One in which something may be done; raises what `find` raises, and Refused when it has more than the operator allows by now."""
        info = await self.find(name)
        if not self._shared(info):
            spec = await self.kernel.spec(self.caller, info.sandbox_id)
            may_allow_hosts = ALLOW_HOSTS in self.operator.grants
            check_made(self.operator.settings, self.request({}), info, spec, may_allow_hosts=may_allow_hosts)
        return info

    async def manageable(self, name: str) -> SandboxInfo:
        """One whose life and network are the model's to decide on; raises what `find` raises, and Refused for one that it was only lent."""
        info = await self.find(name)
        if MADE_BY not in info.labels:
            self.require(MANAGE_SHARED, f"do this with the sandbox {name!r}, which you were lent: run commands in it and use its files")
        return info

    async def all(self) -> list[SandboxInfo]:
        """Every sandbox of the model, by id."""
        found: dict[str, SandboxInfo] = {}
        after = ""
        while True:
            page = await self.kernel.sandboxes(self.caller, SandboxFilter(labels=(MADE_BY,), after=after, limit=_PAGE))
            found |= {info.sandbox_id: info for info in page}
            if len(page) < _PAGE:
                break
            after = page[-1].sandbox_id
        for name in self._names():
            try:
                info = await self.kernel.info(self.caller, name)
            except NotFound:
                continue  # shared, and gone
            found[info.sandbox_id] = info
        return [found[sandbox_id] for sandbox_id in sorted(found)]

    async def created(self, request: SandboxRequest, options: CreateOptions, *, temporary: bool) -> SandboxInfo:
        """Makes one that lasts. A call that is cancelled leaves none: nobody would know of it."""
        making = asyncio.ensure_future(self.kernel.create(self.caller, request, options))
        try:
            info = await asyncio.shield(making)
        except asyncio.CancelledError:
            with suppress(AgentKernelError):
                await self._removed((await making).sandbox_id)
            raise
        if temporary:
            self.temporary.add(info.sandbox_id)
        return info

    @asynccontextmanager
    async def opened(self, name: str) -> AsyncIterator[Sandbox]:
        """A running sandbox; raises what `usable` raises, and Conflict when it does not run."""
        info = await self.usable(name)
        if info.status is Status.STOPPED:
            raise Conflict(f"the sandbox {info.name!r} is stopped", hint="sandbox_start starts it")
        sandbox = await self.kernel.open(self.caller, info.sandbox_id)
        try:
            yield sandbox
        finally:
            await sandbox.close()

    async def clear(self) -> None:
        """Removes the temporary sandboxes; one that is gone is fine, and what fails is left to its time to live."""
        ids = list(self.temporary)
        self.temporary.clear()
        await asyncio.gather(*map(self._removed, ids))

    async def _removed(self, sandbox_id: str) -> None:
        with suppress(AgentKernelError):
            await self.kernel.remove(self.caller, sandbox_id, force=True)

    def _names(self) -> frozenset[str]:
        scopes = (scope.removeprefix("sandbox:") for scope in self.caller.scopes if scope.startswith("sandbox:"))
        return self.operator.shared.union(scopes)

    def _lent(self, info: SandboxInfo) -> bool:
        return MADE_BY in info.labels or self._shared(info)

    def _shared(self, info: SandboxInfo) -> bool:
        return not self._names().isdisjoint((info.name, info.sandbox_id))


def check(operator: Operator) -> None:
    """Raises InvalidInput when no sandbox can be made as the operator says, or a shared one has a name that cannot be."""
    mount_cwd = operator.settings.origin("security.mount_cwd").kind is OriginKind.FLAG and operator.settings.get("security.mount_cwd")
    if mount_cwd and operator.settings.get("dir") is None:
        raise InvalidInput("--mount-cwd shows nothing by itself: the server's own directory is nobody's wish", hint="name one with --dir")
    requested(operator.settings, operator.environment)
    for name in operator.shared:
        _check_name(name)


def marked(labels: Labels) -> Labels:
    """The labels of a sandbox that is made here."""
    return tuple(sorted((*(each for each in labels if each[0] != MADE_BY[0]), MADE_BY)))


def _not_found(name: str) -> NotFound:
    hint = "sandbox_list shows them; others of the user's are reached where the operator starts the server with --share NAME"
    return NotFound(f"there is no sandbox {name!r} here", hint=hint)


def _check_name(name: str) -> None:
    if not is_sandbox_id(name):
        validate_name(name)
