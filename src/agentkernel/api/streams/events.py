"""What happens, as Server-Sent Events: the audit trail, and the changes of files inside."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query

from agentkernel.api.doors import Asked, Door
from agentkernel.api.streams.answer import Flowing
from agentkernel.api.streams.places import Inside, closing, opened
from agentkernel.api.streams.sse import COMMENT, MEDIA_TYPE, event, flow
from agentkernel.errors import InvalidInput
from agentkernel.model.inspection import WatchEvent
from agentkernel.model.record import EventFilter
from agentkernel.text.records import event_record

router = APIRouter(tags=["streams"])

PAGE: Final = 1000
MAX_ID: Final = 2**62
KINDS: Final = {  # inotify(7)
    0x1: "access", 0x2: "modify", 0x4: "attrib", 0x8: "close_write", 0x10: "close_nowrite", 0x20: "open", 0x40: "moved_from",
    0x80: "moved_to", 0x100: "create", 0x200: "delete", 0x400: "delete_self", 0x800: "move_self", 0x2000: "unmount", 0x4000: "overflow",
    0x8000: "ignored", 0x4000_0000: "directory",
}  # fmt: skip
EXAMPLE: Final = """id: 14
data: {"event_id":14,"at":1767225609.1,"kind":"exec.ended","principal":"ann","sandbox_id":"9f3c0a5be1d27764","sandbox":"box"}

"""
EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Events.", "content": {MEDIA_TYPE: {"schema": {"type": "string"}, "example": EXAMPLE}}}
}
WATCHED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events.",
        "content": {
            MEDIA_TYPE: {"schema": {"type": "string"}, "example": 'event: change\ndata: {"name":"a.txt","kinds":["create"],"cookie":0}\n\n'}
        },
    }
}


@router.get("/events", operation_id="events_stream", response_class=Flowing, responses=EVENTS)
async def events_stream(
    door: Asked,
    sandbox: Annotated[str, Query(description="By name or id.")] = "",
    kind: Annotated[list[str] | None, Query(description="A kind, or a prefix that ends with a dot.")] = None,
    after: Annotated[int | None, Query(ge=0, le=MAX_ID, description="Behind the event of this id; 0: all that are kept.")] = None,
    since: Annotated[float | None, Query(ge=0, le=1e12, description="Unix seconds.")] = None,
    follow: Annotated[bool, Query(description="False: the answer ends with what is there.")] = True,
    last_event_id: Annotated[str, Header()] = "",
) -> Flowing:
    """The audit trail as it grows: from now on, or behind an event that `after` or `Last-Event-ID` names, without a gap."""
    if last_event_id:
        if not last_event_id.isascii() or not last_event_id.isdigit() or int(last_event_id) > MAX_ID:
            raise InvalidInput(f"Last-Event-ID: {last_event_id[:80]!r} is no id of an event", hint="it is a number")
        after = int(last_event_id)
    if after is None and since is None:
        since = time.time()
    wanted = EventFilter(after=after or 0, since=since or 0.0, sandbox=sandbox, kinds=tuple(kind or ()), limit=PAGE)
    return flow(lambda: _trail(door, wanted, follow))


@router.get("/sandboxes/{name}/watch/{path:rest}", operation_id="file_watch", response_class=Flowing, responses=WATCHED)
async def file_watch(name: str, path: Inside, door: Asked) -> Flowing:
    """Changes of a file, or of a directory's entries: `ready` once none is missed any more, then `change` for each."""
    return flow(lambda: _watch(door, name, path))


async def _trail(door: Door, wanted: EventFilter, follow: bool) -> AsyncGenerator[bytes, None]:
    if follow:
        async for _ in door.kernel.events(door.caller, replace(wanted, after=MAX_ID, limit=1)):
            pass  # nothing: but what cannot be asked for is an error answer
        yield COMMENT  # the client has its answer, whenever the first event comes
    while True:
        page = 0
        async with closing(door.kernel.events(door.caller, wanted, follow=follow)) as found:
            async for each in found:
                page += 1
                wanted = replace(wanted, after=each.event_id)
                yield event(event_record(each), ident=str(each.event_id))
        if follow or page < wanted.limit:
            return


async def _watch(door: Door, name: str, path: str) -> AsyncGenerator[bytes, None]:
    async with opened(door, name) as sandbox, closing(sandbox.files.watch(path)) as changes:
        async for change in changes:
            yield event(_change(change), name="change") if change.mask else event({"path": path}, name="ready")


def _change(change: WatchEvent) -> dict[str, Any]:
    kinds = [name for bit, name in KINDS.items() if change.mask & bit]
    return {"name": change.name.decode("utf-8", "surrogateescape"), "kinds": kinds, "cookie": change.cookie}
