"""/sandboxes/{name}/exec: a command that is waited for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from agentkernel.abc import Sandbox
from agentkernel.api.attended import attended
from agentkernel.api.doors import Asked, Door
from agentkernel.api.envelope import answer
from agentkernel.api.outcome import Watch, executed, placed, unstarted
from agentkernel.api.shapes import ExecBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_commands import Outcome
from agentkernel.api.wishes import exec_of
from agentkernel.errors import CommandNotStarted
from agentkernel.model.command import Command
from agentkernel.model.record import SandboxInfo

router = APIRouter(prefix="/sandboxes/{name}", tags=["exec"])


@router.post("/exec", operation_id="exec", responses=said(Outcome))
async def exec_command(name: str, body: ExecBody, request: Request, door: Asked) -> Response:
    """Runs one command in a running sandbox to its end, and ends it when the client goes. One that fails is an answer, not an error."""
    command, data = exec_of(body)
    return await attended(request, _done(door, name, command, data))


async def _done(door: Door, name: str, command: Command, data: bytes) -> Response:
    watch = Watch()

    async def work(info: SandboxInfo, sandbox: Sandbox) -> dict[str, Any]:
        watch.created()
        try:
            found = await executed(sandbox, command, data)
        except CommandNotStarted as error:
            found = unstarted(error)
        return found | placed(info.backend, info.isolation)

    found = await door.handles.start(name, work)
    return answer(found | {"durations": watch.durations(found.get("wall_s", 0.0))})
