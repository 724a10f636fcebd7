"""/audit: what was done, by whom, and what came of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from agentkernel.api.doors import Asked
from agentkernel.api.envelope import answer
from agentkernel.api.routes.network import EventId, UnixTime
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_server import Trail
from agentkernel.model.record import EventFilter
from agentkernel.text.records import event_record

router = APIRouter(tags=["events"])


@router.get("/audit", operation_id="audit", responses=said(Trail))
async def audit(
    door: Asked,
    kind: Annotated[list[str], Query(default_factory=list, description="A kind, or the beginning of some that ends with a dot.")],
    sandbox: Annotated[str, Query(description="Only of this one, by name or id.")] = "",
    principal: Annotated[str, Query(description="Only what this one did.")] = "",
    since: UnixTime = 0.0,
    after: EventId = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """The audit trail, oldest first, page by page; GET /events goes on with what happens."""
    wanted = EventFilter(after=after, since=since, sandbox=sandbox, kinds=tuple(kind), principal=principal, limit=limit)
    events = [event async for event in door.kernel.events(door.caller, wanted)]
    return answer(
        {"events": [event_record(event) for event in events], "next_after": events[-1].event_id if len(events) == limit else None}
    )
