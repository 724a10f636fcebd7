"""POST /run: one command in a sandbox of its own."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from agentkernel.api.attended import attended
from agentkernel.api.doors import Asked, Built, Door
from agentkernel.api.envelope import answer
from agentkernel.api.idempotency import Replayed
from agentkernel.api.outcome import NOWHERE, Watch, finished, placed, unstarted
from agentkernel.api.shapes import RunBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_commands import Outcome
from agentkernel.api.wishes import run_of
from agentkernel.channel.gather import collect
from agentkernel.errors import CommandNotStarted
from agentkernel.model.command import Command
from agentkernel.model.request import SandboxRequest

router = APIRouter(tags=["run"])


@router.post("/run", operation_id="run", responses=said(Outcome))
async def run(body: RunBody, request: Request, door: Asked, parts: Built, replays: Replayed) -> Response:
    """Runs one command in a sandbox that is made for it, and removed after it. A command that fails is an answer, not an error.

    Ends with its client. With an `Idempotency-Key` it is done once, and goes on when the client has gone.
    """
    watch = Watch()
    wanted, command, data = run_of(body, parts.environment, door.caller)

    async def do() -> Response:
        return answer(await once(door, wanted, command, data, watch))

    return await attended(request, replays.once(request, door.caller, do))


async def once(door: Door, wanted: SandboxRequest, command: Command, data: bytes, watch: Watch) -> dict[str, Any]:
    """Runs it and tells how it ended."""
    try:
        async with door.kernel.run(door.caller, wanted, command) as process_run:
            watch.created()
            result = await collect(process_run.process, data or None, command)
            where = placed(process_run.backend, process_run.isolation, process_run.notices)
    except CommandNotStarted as error:
        return unstarted(error) | NOWHERE | {"durations": watch.durations()}
    return finished(result) | where | {"durations": watch.durations(result.status.wall_s)}
