"""/sandboxes/{name}/exec: a command that is waited for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from agentkernel.abc import Sandbox
from agentkernel.api.attended import attended
from agentkernel.api.budget import Share, Shared
from agentkernel.api.doors import Asked, Door
from agentkernel.api.kept import kept, reserved
from agentkernel.api.lengthy import told
from agentkernel.api.outcome import Watch, finished, noted, placed, unstarted
from agentkernel.api.shapes import ExecBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_commands import Outcome
from agentkernel.api.wishes import exec_of
from agentkernel.errors import CommandNotStarted
from agentkernel.model.command import Command
from agentkernel.model.record import SandboxInfo

router = APIRouter(prefix="/sandboxes/{name}", tags=["exec"])


@router.post("/exec", operation_id="exec", responses=said(Outcome))
async def exec_command(name: str, body: ExecBody, request: Request, door: Asked, share: Shared) -> Response:
    """Runs one command in a running sandbox to its end, and ends it when the client goes. One that fails is an answer, not an error."""
    command, data = exec_of(body)
    return await attended(request, _done(door, name, command, data, share))


async def _done(door: Door, name: str, command: Command, data: bytes, share: Share) -> Response:
    watch = Watch()
    reserved(share, command)

    async def work(info: SandboxInfo, sandbox: Sandbox) -> tuple[dict[str, Any], int]:
        watch.created()
        try:
            result = await kept(await sandbox.start(command), data, command, share)
        except CommandNotStarted as error:
            return unstarted(error) | placed(info.backend, info.isolation), 0
        return finished(result) | placed(info.backend, info.isolation, noted(result)), result.size_bytes

    found, size_bytes = await door.handles.start(name, work)
    return told(found | {"durations": watch.durations(found.get("wall_s", 0.0))}, size_bytes)
