"""Whether the server is there, which needs no token, and which one it is."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from agentkernel.api.doors import Built
from agentkernel.api.envelope import answer
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_server import Version

router = APIRouter(tags=["server"])


@router.get("/health", operation_id="health", responses=said(str))
async def health() -> Response:
    """The server answers; needs no token."""
    return answer("ok")


@router.get("/version", operation_id="version", responses=said(Version))
async def version(parts: Built) -> Response:
    """The version of the server."""
    return answer({"version": parts.version})
