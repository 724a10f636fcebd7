"""POST /run: one command in a sandbox of its own."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from agentkernel.api.attended import attended
from agentkernel.api.budget import Share, Shared
from agentkernel.api.doors import Asked, Built, Door
from agentkernel.api.idempotency import Replayed, key_of
from agentkernel.api.kept import kept, reserved
from agentkernel.api.lengthy import told
from agentkernel.api.outcome import NOWHERE, Watch, finished, noted, placed, unstarted
from agentkernel.api.shapes import RunBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_commands import Outcome
from agentkernel.api.wishes import run_of
from agentkernel.errors import CommandNotStarted
from agentkernel.model.command import Command
from agentkernel.model.request import SandboxRequest

router = APIRouter(tags=["run"])


@router.post("/run", operation_id="run", responses=said(Outcome))
async def run(body: RunBody, request: Request, door: Asked, parts: Built, replays: Replayed, share: Shared) -> Response:
    """Runs one command in a sandbox that is made for it, and removed after it. A command that fails is an answer, not an error.

    Ends with its client. With an `Idempotency-Key` it is done once, and goes on when the client has gone.
    """
    watch = Watch()
    wanted, command, data = run_of(body, parts.environment, door.caller)

    async def do() -> Response:
        with share.apart() if key_of(request) else nullcontext(share) as own:
            found, size_bytes = await once(Asking(door, wanted, own), command, data, watch)
            return told(found, size_bytes)

    return await attended(request, replays.once(request, door.caller, do))


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, for which sandbox, and what the answer may hold."""

    door: Door
    wanted: SandboxRequest
    share: Share


async def once(asking: Asking, command: Command, data: bytes, watch: Watch) -> tuple[dict[str, Any], int]:
    """Runs it and tells how it ended, and how many bytes that holds; raises Busy, with nothing done, where there is no memory for it."""
    reserved(asking.share, command)
    try:
        async with asking.door.kernel.run(asking.door.caller, asking.wanted, command) as process_run:
            watch.created()
            result = await kept(process_run.process, data, command, asking.share)
            where = placed(process_run.backend, process_run.isolation, (*process_run.notices, *noted(result)))
    except CommandNotStarted as error:
        return unstarted(error) | NOWHERE | {"durations": watch.durations()}, 0
    return finished(result) | where | {"durations": watch.durations(result.status.wall_s)}, result.size_bytes
