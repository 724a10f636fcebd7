"""/sandboxes/{name}/logs: what its detached commands have printed."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from agentkernel.api.budget import Shared
from agentkernel.api.doors import Asked
from agentkernel.api.envelope import answer
from agentkernel.api.routes.network import UnixTime
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_commands import Log
from agentkernel.api.streams.places import closing
from agentkernel.model.record import LogEntry
from agentkernel.text.records import log_record, parse_exec

router = APIRouter(tags=["exec"])

PAGE_BYTES: Final = 1 << 20  # of output, about


@router.get("/sandboxes/{name}/logs", operation_id="sandbox_logs", responses=said(Log))
async def sandbox_logs(
    name: str,
    door: Asked,
    share: Shared,
    exec_id: Annotated[str, Query(description="Only of this command.", max_length=16)] = "",
    since: UnixTime = 0.0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """The recorded output of its detached commands, oldest first, page by page. What was done with it is in GET /audit."""
    entries: list[LogEntry] = []
    size = 0
    share.claim(PAGE_BYTES)
    async with closing(door.kernel.logs(door.caller, name, exec_id=parse_exec(exec_id) if exec_id else 0, since=since)) as found:
        async for entry in found:
            entries.append(entry)
            size += len(entry.data)
            if len(entries) == limit or size >= PAGE_BYTES:
                break
    next_since = entries[-1].at if len(entries) == limit or size >= PAGE_BYTES else None
    return answer({"entries": [log_record(entry) for entry in entries], "next_since": next_since})
