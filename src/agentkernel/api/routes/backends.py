"""/backends: the ways to isolate, and what each can do here."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from agentkernel.api.doors import Asked
from agentkernel.api.envelope import answer
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_server import Backends
from agentkernel.text.records import backend_record, features_record

router = APIRouter(tags=["server"])


@router.get("/backends", operation_id="backends", responses=said(Backends))
async def backends(door: Asked) -> Response:
    """Every backend of the server's installation in the order of the choice, each that may be here tried anew."""
    found = await door.kernel.fingerprints(door.caller)
    return answer(
        {
            "default_backend": next((each.backend for each in found if each.ready), None),
            "backends": [backend_record(each) | features_record(each) for each in found],
        }
    )
