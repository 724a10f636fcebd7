"""/sandboxes/{name}/exec/detached: commands that go on by themselves, and what they print meanwhile."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from agentkernel.api.budget import Shared
from agentkernel.api.doors import Asked, Door
from agentkernel.api.envelope import answer
from agentkernel.api.lengthy import text, told
from agentkernel.api.shapes import DetachBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_commands import Recorded, Started
from agentkernel.api.streams.course import ended_as_told
from agentkernel.api.streams.places import closing, opened
from agentkernel.api.wishes import detached_of
from agentkernel.errors import NotFound
from agentkernel.model.inspection import ProcessRecord
from agentkernel.model.record import EventFilter
from agentkernel.text.records import exec_text, parse_exec, process_record

router = APIRouter(prefix="/sandboxes/{name}/exec", tags=["exec"])

PAGE: Final = 1000
LOG_BYTES: Final = 1 << 20
STARTED: Final = 201
CLOCKS_S: Final = 5.0  # that the clocks of commands and of events may differ


@router.post("/detach", operation_id="exec_detach", status_code=STARTED, responses=said(Started, STARTED))
async def exec_detach(name: str, body: DetachBody, door: Asked) -> Response:
    """Starts a command that goes on when the client has gone. What it prints is recorded."""
    command = detached_of(body)
    async with opened(door, name) as sandbox:  # a connection of its own: the one that others use would take its output
        process = await sandbox.start(command)
        started = ProcessRecord(
            exec_id=process.exec_id,
            pid=process.pid,
            running=True,
            detached=True,
            started_unix_ms=int(time.time() * 1000),
            argv=command.argv,
        )
    return answer(_command(name, started, {}), status=STARTED)


@router.get("/detached", operation_id="exec_detached_list", responses=said(list[Started]))
async def exec_detached_list(name: str, door: Asked) -> Response:
    """The commands of a running sandbox that were started so and are remembered, the oldest first."""
    async with door.handles.use(name) as (info, sandbox):
        records = [record for record in await sandbox.processes() if record.detached]
    return answer(await _told(door, info.name, info.sandbox_id, sorted(records, key=lambda record: record.started_unix_ms)))


@router.get("/detached/{exec_id}", operation_id="exec_detached_info", responses=said(Started))
async def exec_detached_info(name: str, exec_id: str, door: Asked) -> Response:
    """One of them."""
    ident = parse_exec(exec_id)
    async with door.handles.use(name) as (info, sandbox):
        records = [record for record in await sandbox.processes() if record.exec_id == ident and record.detached]
    if not records:
        raise NotFound(f"the sandbox remembers no detached command {exec_text(ident)}", hint="GET .../exec/detached lists them")
    return answer((await _told(door, info.name, info.sandbox_id, records))[0])


@router.get("/detached/{exec_id}/logs", operation_id="exec_detached_logs", responses=said(Recorded))
async def exec_detached_logs(
    name: str,
    exec_id: str,
    door: Asked,
    share: Shared,
    stream: Annotated[Literal["stdout", "stderr"] | None, Query(description="Only this one.")] = None,
    tail_bytes: Annotated[int, Query(ge=1, le=16 * LOG_BYTES, description="The newest of each stream.")] = LOG_BYTES,
) -> Response:
    """What it has printed so far, as far back as it is recorded, as UTF-8 with U+FFFD for what is none."""
    kept = {each: bytearray() for each in ("stdout", "stderr") if stream in (None, each)}
    truncated = False
    share.claim(len(kept) * tail_bytes)
    entries = door.kernel.logs(door.caller, name, exec_id=parse_exec(exec_id))
    async with closing(entries) as found:
        async for entry in found:
            data = kept.get("stdout" if entry.stream == 1 else "stderr")
            if data is not None:
                data += entry.data
                truncated = truncated or entry.missing > 0 or len(data) > tail_bytes
                del data[: max(0, len(data) - tail_bytes)]
    return told({each: text(bytes(data)) for each, data in kept.items()} | {"truncated": truncated}, sum(map(len, kept.values())))


@router.delete("/detached/{exec_id}", operation_id="exec_detached_kill", responses=said(str))
async def exec_detached_kill(name: str, exec_id: str, door: Asked) -> Response:
    """SIGKILL for its whole tree; one that has ended is fine."""
    async with opened(door, name) as sandbox:
        process = await sandbox.attach(parse_exec(exec_id))
        await process.kill()
    return answer("Command killed")


async def _told(door: Door, name: str, sandbox_id: str, records: Sequence[ProcessRecord]) -> list[dict[str, Any]]:
    """The commands, those whose end has been told with how it was."""
    ended = {record.exec_id for record in records if not record.running}
    ends: dict[int, int | None] = {}
    if ended:
        since = min(record.started_unix_ms for record in records) / 1000 - CLOCKS_S
        wanted = EventFilter(sandbox=sandbox_id, kinds=("exec.ended",), since=since, limit=PAGE)
        async for event in door.kernel.events(door.caller, wanted):
            if event.exec_id in ended:
                ends[event.exec_id] = ended_as_told(event.details)["exit_code"] if event.outcome == "ok" else None
    return [_command(name, record, ends) for record in records]


def _command(name: str, record: ProcessRecord, ends: Mapping[int, int | None]) -> dict[str, Any]:
    status = "running" if record.exec_id not in ends else "completed" if ends[record.exec_id] == 0 else "failed"
    found = process_record(record)
    return {
        "id": found["exec_id"],
        "sandbox": name,
        "command": found["argv"],
        "pid": record.pid,
        "status": status,
        "exit_code": ends.get(record.exec_id),
        "started_at": found["started_at"],
    }
