"""What happens, as Server-Sent Events: the audit trail, and the changes of files inside."""

from __future__ import annotations

import re
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
_PLACE: Final = re.compile(r"@([0-9]{1,12}(?:\.[0-9]{1,9})?)|([0-9]{1,19})", re.ASCII)
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
        after, since = _place(last_event_id)
    if after is None and since is None:
        since = time.time()
    wanted = EventFilter(after=after or 0, since=since or 0.0, sandbox=sandbox, kinds=tuple(kind or ()), limit=PAGE)
    return flow(lambda: _trail(door, wanted, follow, str(after) if after is not None else f"@{wanted.since:.9f}"))


@router.get("/sandboxes/{name}/watch/{path:rest}", operation_id="file_watch", response_class=Flowing, responses=WATCHED)
async def file_watch(name: str, path: Inside, door: Asked) -> Flowing:
    """Changes of a file, or of a directory's entries: `ready` once none is missed any more, then `change` for each."""
    return flow(lambda: _watch(door, name, path))


async def _trail(door: Door, wanted: EventFilter, follow: bool, begins: str) -> AsyncGenerator[bytes, None]:
    if follow:
        async for _ in door.kernel.events(door.caller, replace(wanted, after=MAX_ID, limit=1)):
            pass  # nothing: but what cannot be asked for is an error answer
        yield b"id: " + begins.encode() + b"\n" + COMMENT  # the client has its answer, and where to go on, whenever the first event comes
    while True:
        page = 0
        async with closing(door.kernel.events(door.caller, wanted, follow=follow)) as found:
            async for each in found:
                page += 1
                wanted = replace(wanted, after=each.event_id)
                yield event(event_record(each), ident=str(each.event_id))
        if follow or page < wanted.limit:
            return


def _place(last_event_id: str) -> tuple[int | None, float | None]:
    """Behind which event to go on, or from which time: `@1767225609.1` is told to who has had no event yet. Raises InvalidInput."""
    found = _PLACE.fullmatch(last_event_id)
    if found is None or int(found[2] or 0) > MAX_ID:
        raise InvalidInput(f"Last-Event-ID: {last_event_id[:80]!r} is no id of an event", hint="send the last one that came, as it came")
    return (None, float(found[1])) if found[1] else (int(found[2]), None)


async def _watch(door: Door, name: str, path: str) -> AsyncGenerator[bytes, None]:
    async with opened(door, name) as sandbox, closing(sandbox.files.watch(path)) as changes:
        async for change in changes:
            yield event(_change(change), name="change") if change.mask else event({"path": path}, name="ready")


def _change(change: WatchEvent) -> dict[str, Any]:
    kinds = [name for bit, name in KINDS.items() if change.mask & bit]
    return {"name": change.name.decode("utf-8", "surrogateescape"), "kinds": kinds, "cookie": change.cookie}
