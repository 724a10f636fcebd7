"""The door's operations on what a sandbox may connect to, and on what connects to it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Protocol

from agentkernel.abc import Caller
from agentkernel.engine.audit import of_port
from agentkernel.engine.core import Core
from agentkernel.engine.lifecycle import Act, Lifecycle, unchanged
from agentkernel.engine.network import check_filtered
from agentkernel.engine.registry import Live
from agentkernel.engine.rules import changed, described
from agentkernel.errors import Conflict
from agentkernel.failpoints import failpoint
from agentkernel.model.network import EgressChange, EgressRules, PortRule, PublishedPort
from agentkernel.model.ports import checked_port
from agentkernel.model.record import SandboxRecord


class Operate(Protocol):
    """`Engine._on`: one thing done with one sandbox, told as an event of `kind` when it fails."""

    def __call__(self, caller: Caller, operation: str, name: str, kind: str, act: Act) -> Awaitable[SandboxRecord]:
        """The row afterwards."""
        ...


class Connections:
    """What is changed is stored before it takes effect. Sandboxes of blocks, which have no row, are found by their id."""

    def __init__(self, core: Core, lifecycle: Lifecycle, operate: Operate) -> None:
        self._core = core
        self._lifecycle = lifecycle
        self._operate = operate

    def network(self, caller: Caller, name: str) -> EgressRules:
        """See `abc.Kernel`."""
        record = self._core.find(caller, "network", name)
        check_filtered(record)
        return record.spec.egress

    async def change_network(self, caller: Caller, name: str, change: EgressChange) -> EgressRules:
        """See `abc.Kernel`."""
        core = self._core

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            check_filtered(record)
            rules = changed(record.spec.egress, change)
            if rules == record.spec.egress:
                return record
            event = core.audit.event("network.changed", caller, record, details=described(change))
            record = core.update(replace(record, spec=replace(record.spec, egress=rules)), event)
            failpoint("engine.network.stored")
            core.networks.change(record)
            return record

        return (await self._operate(caller, "change_network", name, "network.changed", act)).spec.egress

    async def publish(self, caller: Caller, name: str, rule: PortRule) -> PublishedPort:
        """See `abc.Kernel`; the same rule again finds what it made."""
        core = self._core
        found: list[PublishedPort] = []

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            checked_port(rule)
            with core.ports.publishing(self._running(record), rule) as port:
                found.append(port)
                if port in record.published:
                    return record
                event = core.audit.event("ports.published", caller, record, details=of_port(port))
                record = core.update(replace(record, published=(*record.published, port)), event)
                failpoint("engine.ports.stored")
                return record

        await self._operate(caller, "publish", name, "ports.published", act)
        return found[0]

    async def unpublish(self, caller: Caller, name: str, port: int) -> None:
        """See `abc.Kernel`."""
        core = self._core

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            gone = [each for each in record.published if each.port == port]
            for each in gone:
                event = core.audit.event("ports.unpublished", caller, record, details=of_port(each))
                record = core.update(replace(record, published=tuple(left for left in record.published if left != each)), event)
            if gone:
                failpoint("engine.ports.unstored")
                core.ports.unpublish(record.sandbox_id, port)
            return record

        await self._operate(caller, "unpublish", name, "ports.unpublished", act)

    async def ports(self, caller: Caller, name: str) -> Sequence[PublishedPort]:
        """See `abc.Kernel`. Of a sandbox that an earlier engine left running they are there once it is settled."""
        record = self._core.find(caller, "ports", name)
        if record.sandbox_id in self._core.unsettled:
            await self._lifecycle.operate(caller, record.sandbox_id, unchanged, even_unavailable=True)
        return self._core.published(record.sandbox_id)

    def _running(self, record: SandboxRecord) -> Live:
        live = self._core.live(record) or self._core.blocks.get(record.sandbox_id)
        if live is None:
            raise Conflict(f"sandbox {record.name!r} is {record.status}", hint=f"`agentkernel start {record.name}`")
        return live
