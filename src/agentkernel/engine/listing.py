"""What callers see of the engine's state: sandboxes by pages, events, numbers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import cache

from agentkernel import __version__
from agentkernel.abc import Caller
from agentkernel.engine.access import narrows
from agentkernel.engine.confine import heard
from agentkernel.engine.core import Core
from agentkernel.errors import InvalidInput
from agentkernel.model.record import Event, EventFilter, KernelStatus, SandboxFilter, SandboxInfo, SandboxRecord
from agentkernel.model.status import Status

MAX_PAGE = 1000
_STATM = "/proc/self/statm"


def shown(core: Core, record: SandboxRecord, is_missing: Callable[[str], bool] | None = None) -> SandboxInfo:
    """A row as users see it: with the last use that only memory knows, and `unavailable` when its backend is not to be had."""
    missing = (is_missing or core.granting.is_missing)(record.backend)
    live = core.live(record)
    if live is not None:
        record = replace(record, used_at=live.used_at)
    return record.info(Status.UNAVAILABLE if missing else None, core.published(record.sandbox_id))


def page(core: Core, caller: Caller, wanted: SandboxFilter) -> Sequence[SandboxInfo]:
    """One page of the caller's sandboxes, full unless it is the last."""
    if not 1 <= wanted.limit <= MAX_PAGE:
        raise InvalidInput(f"a page has 1 to {MAX_PAGE} entries, not {wanted.limit}")
    owner = "" if "admin" in caller.scopes else caller.principal
    only = narrows(caller)
    is_missing = cache(core.granting.is_missing)  # of a page's many rows, few have a backend of their own
    stored = () if Status.UNAVAILABLE in wanted.statuses else wanted.statuses
    found: list[SandboxInfo] = []
    after = wanted.after
    while len(found) < wanted.limit:
        rows = core.store.sandboxes(owner, replace(wanted, statuses=stored, after=after))
        every = [shown(core, row, is_missing) for row in rows if only is None or row.name in only or row.sandbox_id in only]
        found += [info for info in every if not wanted.statuses or info.status in wanted.statuses]
        if len(rows) < wanted.limit:
            break
        after = rows[-1].sandbox_id
    return found[: wanted.limit]


async def events(core: Core, caller: Caller, wanted: EventFilter, *, follow: bool) -> AsyncIterator[Event]:
    """The events that concern the caller and match."""
    if not 1 <= wanted.limit <= MAX_PAGE:
        raise InvalidInput(f"a page has 1 to {MAX_PAGE} entries, not {wanted.limit}")
    if "admin" not in caller.scopes:
        if wanted.principal not in ("", caller.principal):
            return
        wanted = replace(wanted, principal=caller.principal)
    await core.take_passing()
    only = narrows(caller)
    if only is None:
        found = core.audit.follow(wanted, follow=follow)
    else:
        found = core.audit.follow(
            wanted, follow=follow, concerns=lambda event: event.sandbox in only or event.sandbox_id in only, page=MAX_PAGE
        )
    async for event in found:
        yield heard(caller, event)


def status(core: Core) -> KernelStatus:
    """The engine at a glance."""
    return KernelStatus(
        version=__version__,
        pid=os.getpid(),
        started_at=core.started_at,
        sandboxes=len(core.census),
        running=len(core.registry),
        busy=len(core.operations) + core.registry.commands(),
        queued=core.boots.queued,
        rss_bytes=_resident_bytes(),
        pools=() if core.pools is None else core.pools.states(),
    )


def _resident_bytes() -> int:
    try:
        with open(_STATM) as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
