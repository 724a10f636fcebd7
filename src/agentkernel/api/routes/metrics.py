"""Numbers for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from agentkernel.api.doors import Asked, about_host
from agentkernel.api.metrics import CONTENT_TYPE, Metrics

router = APIRouter(tags=["server"])


@router.get("/metrics", operation_id="metrics", response_class=PlainTextResponse)
async def metrics(request: Request, door: Asked) -> Response:
    """Numbers for Prometheus: requests, sandboxes and commands of this server, as text of its exposition format 0.0.4."""
    about_host(door.caller, "metrics")
    status = await door.kernel.status(door.caller)
    numbers: Metrics = request.app.state.metrics
    return Response(numbers.text(status.running), media_type=CONTENT_TYPE)
