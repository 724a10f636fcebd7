"""/sandboxes/{name}/processes: every command that the sandbox's agent knows; numbers from inside."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from agentkernel.api.doors import Asked
from agentkernel.api.envelope import answer
from agentkernel.api.shapes import SignalBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_commands import Process, Statistics
from agentkernel.api.streams.places import opened
from agentkernel.text.records import parse_exec, process_record, statistics_record

router = APIRouter(prefix="/sandboxes/{name}", tags=["exec"])


@router.get("/processes", operation_id="process_list", responses=said(list[Process]))
async def process_list(
    name: str, door: Asked, ended: Annotated[bool, Query(description="Also those that have ended.")] = False
) -> Response:
    """The commands that were started in it, the oldest first. What they have started themselves `ps` inside shows."""
    async with door.handles.use(name) as (_, sandbox):
        found = sorted(await sandbox.processes(), key=lambda record: record.started_unix_ms)
    return answer([process_record(record) for record in found if record.running or ended])


@router.post("/processes/{exec_id}/signal", operation_id="process_signal", responses=said(str))
async def process_signal(name: str, exec_id: str, body: SignalBody, door: Asked) -> Response:
    """Signals a command and, with `tree`, all that it has started; one that has ended is none to signal."""
    async with opened(door, name) as sandbox:
        process = await sandbox.attach(parse_exec(exec_id))
        await process.signal(body.signal, tree=body.tree)
    return answer("Command signalled")


@router.delete("/processes", operation_id="process_kill_all", responses=said(str))
async def process_kill_all(name: str, door: Asked) -> Response:
    """SIGKILL for the whole tree of every running command, whoever started it."""
    async with door.handles.use(name) as (_, sandbox):
        await sandbox.kill_commands()
    return answer("Commands killed")


@router.get("/statistics", operation_id="sandbox_statistics", responses=said(Statistics))
async def sandbox_statistics(name: str, door: Asked) -> Response:
    """Numbers from inside."""
    async with door.handles.use(name) as (_, sandbox):
        return answer(statistics_record(await sandbox.statistics()))
