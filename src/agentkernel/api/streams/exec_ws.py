"""Commands and terminals over WebSockets; `conversation` says how both ends speak.

The first message is the body: a command, or the `exec_id` of a detached one, to be taken up from `stdout` and `stderr` on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

from fastapi import APIRouter
from pydantic import Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from agentkernel.abc import Process, Sandbox
from agentkernel.api.doors import Asked, Door
from agentkernel.api.shapes import Body, Side, SocketBody, Words
from agentkernel.api.streams.conversation import converse, fail, first_message, say
from agentkernel.api.streams.course import foreground, not_started
from agentkernel.api.streams.places import opened
from agentkernel.api.streams.recorded import recorded
from agentkernel.api.wishes import opened_of
from agentkernel.errors import AgentKernelError, CommandNotStarted, InvalidInput, NotFound
from agentkernel.model.command import Command
from agentkernel.text.records import exec_text, parse_exec

router = APIRouter(tags=["streams"])

TERMINAL_TYPE: Final = b"xterm-256color"
SHELL: Final = ["sh", "-c", "command -v bash > /dev/null && exec bash; exec sh"]
T = TypeVar("T", bound=Body)


class TerminalBody(SocketBody):
    """The first message of a terminal."""

    command: Words = Field(default_factory=lambda: list(SHELL), description="Without it a shell.")
    rows: Side | None = 24
    columns: Side | None = 80


class AttachBody(Body):
    """The first message of who takes up a detached command."""

    exec_id: str
    stdout: int = Field(0, ge=0, le=2**62, description="The offset to go on from.")
    stderr: int = Field(0, ge=0, le=2**62)


@router.websocket("/sandboxes/{name}/exec/ws")
async def exec_socket(websocket: WebSocket, name: str, door: Asked) -> None:
    """A command with its input, on a terminal where the first message says its size."""
    await _serve(websocket, name, door, SocketBody)


@router.websocket("/sandboxes/{name}/terminal")
async def terminal(websocket: WebSocket, name: str, door: Asked) -> None:
    """A command on a terminal, a shell if the first message names none."""
    await _serve(websocket, name, door, TerminalBody)


async def _serve(websocket: WebSocket, name: str, door: Door, kind: type[SocketBody]) -> None:
    async with opened(door, name) as sandbox:
        await websocket.accept()
        with suppress(WebSocketDisconnect):  # whoever was served has gone
            try:
                said = await first_message(websocket)
                if isinstance(said, Mapping) and "exec_id" in said:
                    end = await _attached(websocket, name, door, sandbox, _read(AttachBody, said))
                else:
                    end = await _started(websocket, name, door, sandbox, _command(_read(kind, said)))
            except AgentKernelError as error:
                await fail(websocket, error)
                raise
            if end is not None:
                await say(websocket, end)
                await websocket.close()


async def _started(websocket: WebSocket, name: str, door: Door, sandbox: Sandbox, command: Command) -> dict[str, Any] | None:
    try:
        process = await sandbox.start(command)
    except CommandNotStarted as error:
        return not_started(error)
    started = {"started": {"exec_id": exec_text(process.exec_id), "pid": process.pid}}
    if command.detached:
        await say(websocket, started)
        async with recorded(door, name, process.exec_id, (0, 0)) as course:
            return await converse(websocket, process, course, (0, 0))
    async with foreground(process) as own:
        await say(websocket, started)
        return await converse(websocket, process, own, (0, 0))


async def _attached(websocket: WebSocket, name: str, door: Door, sandbox: Sandbox, body: AttachBody) -> dict[str, Any] | None:
    exec_id, offsets = parse_exec(body.exec_id), (body.stdout, body.stderr)
    async with recorded(door, name, exec_id, offsets) as course:
        process: Process | None = None
        with suppress(NotFound):  # it has ended, and what it printed is told all the same
            process = await sandbox.attach(exec_id)
        await say(websocket, {"started": {"exec_id": exec_text(exec_id), "pid": process.pid if process else 0}})
        return await converse(websocket, process, course, offsets)


def _command(body: SocketBody) -> Command:
    command = opened_of(body)
    if command.terminal is None:
        return command
    return replace(command, environment={b"TERM": TERMINAL_TYPE, **command.environment})


def _read(kind: type[T], said: Any) -> T:
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where}: {first['msg']}" if where else f"the first message: {first['msg']}") from None
