"""/status and /gc: the engine itself."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from agentkernel.api.doors import Asked, about_host
from agentkernel.api.envelope import answer
from agentkernel.api.shapes import CollectBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_server import Status
from agentkernel.text.records import status_record

router = APIRouter(tags=["server"])


@router.get("/status", operation_id="status", responses=said(Status))
async def status(door: Asked) -> Response:
    """The engine at a glance."""
    about_host(door.caller, "status")
    return answer(status_record(await door.kernel.status(door.caller)))


@router.post("/gc", operation_id="gc", responses=said(list[str]))
async def collect_garbage(door: Asked, body: CollectBody | None = None) -> Response:
    """Removes what has expired and what belongs to no sandbox; one line for each thing."""
    return answer(list(await door.kernel.collect_garbage(door.caller, dry_run=body is not None and body.dry_run)))
