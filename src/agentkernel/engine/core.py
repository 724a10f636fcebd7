"""What the parts of one engine share: the store and what is known of it in memory, locks, limits, the audit trail."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from agentkernel import engine as late  # what only some engines need
from agentkernel.abc import Backend, Caller, Mortal, Sandbox, Store
from agentkernel.engine.access import CONNECT, finds, not_found, require
from agentkernel.engine.admission import Boots
from agentkernel.engine.audit import Audit, Journal
from agentkernel.engine.census import Census
from agentkernel.engine.granting import Granting
from agentkernel.engine.lease import Leases
from agentkernel.engine.locks import Locks, Operations
from agentkernel.engine.network import Networks
from agentkernel.engine.parts import Parts
from agentkernel.engine.registry import Live, Registry
from agentkernel.errors import AgentKernelError, LaunchFailed, SandboxFailed, StoreFailed
from agentkernel.failpoints import failpoint
from agentkernel.model.names import is_sandbox_id
from agentkernel.model.record import Event, SandboxRecord
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import SandboxSpec
from agentkernel.model.status import FOLLOWS, Status

if TYPE_CHECKING:
    from agentkernel.engine.pool import Pools
    from agentkernel.engine.ports import Ports
    from agentkernel.engine.secrets import Secrets
    from agentkernel.model.network import PortRule, PublishedPort

Clock = Callable[[], float]
EVENTS_IN_MEMORY: Final = 10_000  # of an engine in process


class Core:
    """One engine's state. Rows are changed here alone, so that the store, the census and the table of states agree.

    `durable`: the store, and so its sandboxes, outlive this process.
    """

    def __init__(self, parts: Parts, *, durable: bool, clock: Clock = time.time) -> None:
        self.parts = parts
        self.durable = durable
        self.clock = clock
        self.started_at = clock()
        journal = Journal(parts.data_directory)
        if durable:
            self.audit = Audit(lambda: self.store, clock)
            self._taker = late.Taker(journal)
        else:
            self.audit = Audit(lambda: self.store, clock, keep=EVENTS_IN_MEMORY, also=journal.write)
        self.boots = Boots(parts.limits)
        self.census = Census()
        self.granting = Granting(parts, lambda backend: self.operations.spawn(self.sweep(backend)), self.images_in_use)
        self.locks = Locks()
        self.operations = Operations()
        self.networks = Networks(self.audit, parts.egress, lambda spec: self.secrets.of(spec))
        self.registry = Registry(self._begun_for_long, self._ended)
        self.blocks = Registry(self._begun, self._ended)  # running ones that have no row: they end with a block of their callers'
        self.knows_rows = not durable  # until then every sandbox of the store looks like one without a row
        self.unsettled: set[str] = set()  # ids whose rows may not be what is on the host
        self.adopted: Callable[[Live], None] = _nothing  # told of every sandbox that an earlier engine left running
        self.gone: Callable[[str], None] = _nothing  # told of every id whose row was deleted
        self.lost: Callable[[Live, AgentKernelError], None] = _nothing_more  # told of every sandbox with a row that dies by itself
        self.leases = Leases(parts.data_directory)
        self.pools: Pools | None = None if parts.pool is None else late.Pools(self._make, parts.pool)
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The store, opened now if nobody needed it before."""
        if self._store is None:
            self._store = self.parts.open_store()
        return self._store

    @property
    def has_store(self) -> bool:
        """Whether anybody needed it."""
        return self._store is not None

    @property
    def log_directory(self) -> str:
        """Where the logs of sandboxes are: of those that live on, beside the store; of others, where nothing outlives a boot."""
        return f"{self.parts.data_directory}/logs" if self.durable else _passing_logs(self.parts, self.store.identity)

    @cached_property
    def ports(self) -> Ports:
        """What is published."""
        ports: Ports = late.Ports(self._used)
        return ports

    @cached_property
    def secrets(self) -> Secrets:
        """Values of secrets."""
        secrets: Secrets = late.Secrets(self.parts.make_authority)
        return secrets

    def keeping_secrets(self, spec: SandboxSpec, request: SandboxRequest) -> AbstractContextManager[None]:
        """Holds the values that came with a request for the sandbox that is made of it; see `Secrets.keeping`."""
        return self.secrets.keeping(spec, request) if spec.secrets else nullcontext()

    def bound(self, rules: tuple[PortRule, ...]) -> AbstractContextManager[tuple[PublishedPort, ...]]:
        """Holds the host's ports of a sandbox that is being made; see `Ports.bound`."""
        return self.ports.bound(rules) if rules else nullcontext(())

    def published(self, sandbox_id: str) -> tuple[PublishedPort, ...]:
        """What is listened on for a sandbox now."""
        return self.ports.published(sandbox_id) if self._has_ports else ()

    def find(self, caller: Caller, operation: str, name: str) -> SandboxRecord:
        """The row of a sandbox by its name or id, or NAME@ID, if the caller may do that with it; raises NotFound, Refused.

        For what `access.CONNECT` names also what would be the row of a block's sandbox, by its id.
        """
        require(caller, operation)
        name, at, ident = name.partition("@")
        if operation in CONNECT and (block := self.blocks.get(name)) is not None:
            require(caller, operation, block.record)
            return block.record
        record = self.store.find(caller.principal, name)
        if record is None and is_sandbox_id(name):
            record = self.store.get(name)
        if record is None or (at and ident != record.sandbox_id) or not finds(caller, record, ident if at else name):
            raise not_found(name)
        require(caller, operation, record)
        return record

    def insert(self, record: SandboxRecord, event: Event | None = None) -> None:
        """Adds a row; raises Conflict, StoreFailed."""
        self.census.put(record)
        try:
            self.store.insert(record, event)
        except BaseException:
            self.census.discard(record.sandbox_id)
            raise
        self.audit.announce(event)

    def update(self, record: SandboxRecord, event: Event | None = None) -> SandboxRecord:
        """Replaces a row without changing its status; raises Conflict, StoreFailed."""
        if (block := self.blocks.get(record.sandbox_id)) is not None:
            block.record = record
            if event is not None:
                self.audit.append(event)
            return record
        self.store.update(record, event)
        self.census.put(record)
        if (live := self.registry.get(record.sandbox_id)) is not None:
            live.record = record
        self.audit.announce(event)
        return record

    def move(self, record: SandboxRecord, status: Status, event: Event | None = None, *, reason: str = "") -> SandboxRecord:
        """Brings a row to its next status, as `FOLLOWS` allows."""
        if status not in FOLLOWS[record.status]:
            raise SandboxFailed(f"a sandbox cannot go from {record.status} to {status}")
        record = replace(record, status=status, reason=reason)
        if status is Status.RUNNING:
            record = replace(record, started_at=self.clock())
        elif status is Status.STOPPED:
            record = replace(record, published=(), visited=False)
        return self.update(record, event)

    def delete(self, record: SandboxRecord, event: Event | None = None) -> None:
        """Removes a row."""
        self.store.delete(record.sandbox_id, event)
        self.census.discard(record.sandbox_id)
        self.unsettled.discard(record.sandbox_id)
        self.gone(record.sandbox_id)
        self.forget(record.spec)
        self.audit.announce(event)

    def live(self, record: SandboxRecord) -> Live | None:
        """The running sandbox of a row."""
        return self.registry.get(record.sandbox_id)

    async def build(self, sandbox_id: str, spec: SandboxSpec, backend: Backend) -> Sandbox:
        """Boots a sandbox that is known by its id; what the host refuses is LaunchFailed."""
        if not self.durable:
            self.leases.take(self.store.identity, backend.name)
        try:
            with self.granting.asking(backend.name):
                return await backend.boot(sandbox_id, await self.vouched(spec), self.store.identity)
        except OSError as error:
            raise LaunchFailed(f"cannot build the sandbox: {error}", hint="run `agentkernel doctor`") from error
        except BaseException as error:
            self.granting.doubt(error, backend.name)
            raise

    async def vouched(self, spec: SandboxSpec) -> SandboxSpec:
        """What is to be built of a spec: with whom its programs trust, where it has secrets."""
        return await self.secrets.built(spec) if spec.secrets else spec

    def forget(self, spec: SandboxSpec) -> None:
        """A sandbox is gone for good, and with it what was held for it."""
        if spec.secrets:
            self.secrets.forget(spec)

    def take(self, backend: str, spec: SandboxSpec) -> Sandbox | None:
        """A fresh sandbox of that spec from a pool, which protects it no longer; None: there is none."""
        return None if self.pools is None else self.pools.take(backend, spec)

    def worked(self, backend: str, spec: SandboxSpec) -> None:
        """Such a sandbox was made for somebody: a pool may make more of them."""
        if self.pools is not None:
            self.pools.worked(backend, spec)

    async def images_in_use(self) -> Collection[str]:
        """The directories and digests of images that sandboxes of this engine, and of the user's durable store, need; running or not."""
        specs = [record.spec for record in self.store.sandboxes()] if self.has_store or self.durable else []
        specs += [live.record.spec for live in self.blocks]
        specs += [] if self.pools is None else self.pools.specs()
        elsewhere = () if self.durable else await asyncio.to_thread(self.parts.images_stored)
        return {*elsewhere, *(each for spec in specs for each in (spec.root.directory, spec.root.digest) if each)}

    async def take_passing(self) -> None:
        """Takes what engines in process have told into the durable store's trail; what it has no room for stays where it is."""
        if self.durable:
            with suppress(StoreFailed):
                await self.operations.finish(self._take_passing())

    async def _take_passing(self) -> None:
        async with self.locks.hold("passing"):
            await self._taker.take(self.store.append)
            self.audit.announce()

    async def close(self, *, left: bool = False) -> None:
        """Gives back what the engine itself holds, the store last; `left`: sandboxes that another engine is to remove."""
        await self.networks.close()
        if self._has_ports:
            await self.ports.close()
        if self._store is not None and not self.durable:
            shutil.rmtree(self.log_directory, ignore_errors=True)  # our own files, of sandboxes that are gone
        self.leases.release(abandoning=left)
        self.granting.close()
        if self._store is not None:
            self._store.close()

    async def sweep(self, backend: Backend) -> int:
        """Removes what belongs to nobody: of this store, of engines in process that died, of blocks that a crash ended."""
        count = 0
        for identity in self.leases.abandoned(backend.name):
            count += await backend.sweep_owned(identity, ())
            shutil.rmtree(_passing_logs(self.parts, identity), ignore_errors=True)  # our own files; the next sweep finds what is left
        if self.durable and self.knows_rows:
            failpoint("engine.sweep.begun")
            count += await backend.sweep_owned(self.store.identity, Kept(self.census, self.pools))
        return count + await backend.sweep()

    @property
    def _has_ports(self) -> bool:
        return "ports" in self.__dict__  # made when the first is to be published

    def _begun(self, live: Live) -> None:
        self.networks.begin(live)
        if self._has_ports:
            self.ports.begin(live)

    def _begun_for_long(self, live: Live) -> None:
        self._begun(live)
        if isinstance(live.sandbox, Mortal):
            live.sandbox.when_lost(lambda error: self.lost(live, error))

    def _ended(self, live: Live) -> None:
        self.networks.end(live)
        if self._has_ports:
            self.ports.end(live)

    def _used(self, live: Live) -> None:
        live.used_at = self.clock()

    async def _make(self, backend: str, sandbox_id: str, spec: SandboxSpec) -> Sandbox:
        """A sandbox for a pool."""
        maker = self.granting.backend(backend)
        await self.granting.swept(maker)
        return await self.build(sandbox_id, spec, maker) if self.durable else await maker.create(spec)


class Kept(Collection[str]):
    """The ids that no sweep may touch: those with a row and those in a pool, as they are at the moment of asking."""

    def __init__(self, census: Census, pools: Pools | None) -> None:
        self._census = census
        self._pools = pools

    def __contains__(self, sandbox_id: object) -> bool:
        return sandbox_id in self._census or sandbox_id in self._pooled()

    def __iter__(self) -> Iterator[str]:
        yield from (*self._census, *self._pooled())

    def __len__(self) -> int:
        return len(self._census) + len(self._pooled())

    def _pooled(self) -> Collection[str]:
        return () if self._pools is None else self._pools.held()


def _passing_logs(parts: Parts, identity: str) -> str:
    return f"{parts.runtime_directory}/logs/{identity}"


def _nothing(_: object) -> None:
    """Nobody wants to know."""


def _nothing_more(_: object, __: object) -> None:
    """Nobody wants to know."""
