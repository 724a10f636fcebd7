"""Commands as Server-Sent Events: `started`, `stdout`, `stderr`, and `exit` or `error` at the end.

The id of each event is where to go on behind it: the offsets of stdout and stderr, joined by a comma. A foreground command ends with its
stream; a detached one is taken up, from any offset on, by as many streams as want it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query

from agentkernel.api.doors import Asked, Built, Door
from agentkernel.api.shapes import ExecBody, InputBody, RunBody
from agentkernel.api.streams.answer import Flowing
from agentkernel.api.streams.course import Course, foreground, not_started
from agentkernel.api.streams.places import opened
from agentkernel.api.streams.recorded import recorded
from agentkernel.api.streams.sse import MEDIA_TYPE, Texts, event, flow
from agentkernel.api.wishes import exec_of, run_of
from agentkernel.channel.gather import fed
from agentkernel.errors import CommandNotStarted, InvalidInput
from agentkernel.model.command import Command
from agentkernel.model.request import SandboxRequest
from agentkernel.text.records import exec_text, notice_record, parse_exec

router = APIRouter(tags=["streams"])

STREAMS: Final = ("", "stdout", "stderr")
MAX_OFFSET: Final = 2**62
EXAMPLE: Final = """event: started
data: {"exec_id":"3f6891c05b7d8e46","pid":7}

event: stdout
id: 3,0
data: {"data":"hi\\n"}

event: exit
id: 3,0
data: {"exit_code":0,"timed_out":false,"cause":"itself","stdout_bytes":3,"stderr_bytes":0}

"""
EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Events, until the command ends.", "content": {MEDIA_TYPE: {"schema": {"type": "string"}, "example": EXAMPLE}}}
}
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET)]


@router.post("/run/stream", operation_id="run_stream", response_class=Flowing, responses=EVENTS)
async def run_stream(body: RunBody, door: Asked, parts: Built) -> Flowing:
    """One command in a sandbox of its own, its output as it comes. The command and its sandbox end with the stream."""
    _check(body)
    request, command, data = run_of(body, parts.environment, door.caller)
    return flow(lambda: _run(door, request, command, data))


@router.post("/sandboxes/{name}/exec/stream", operation_id="exec_stream", response_class=Flowing, responses=EVENTS)
async def exec_stream(name: str, body: ExecBody, door: Asked) -> Flowing:
    """A command in a sandbox, its output as it comes. The command ends with the stream; while nobody reads, it waits."""
    _check(body)
    command, data = exec_of(body)
    return flow(lambda: _exec(door, name, command, data))


@router.get("/sandboxes/{name}/exec/{exec_id}/stream", operation_id="exec_attach", response_class=Flowing, responses=EVENTS)
async def exec_attach(
    name: str,
    exec_id: str,
    door: Asked,
    stdout: Offset = 0,
    stderr: Offset = 0,
    last_event_id: Annotated[str, Header()] = "",
) -> Flowing:
    """A detached command's output from these offsets on, as far back as it is recorded, and then as it comes.

    `Last-Event-ID` counts for more than `stdout` and `stderr`. Where output is no longer there, the next event says `lost_bytes`.
    """
    offsets = _offsets(last_event_id) if last_event_id else (stdout, stderr)
    ident = parse_exec(exec_id)
    return flow(lambda: _attach(door, name, ident, offsets))


async def _run(door: Door, request: SandboxRequest, command: Command, data: bytes) -> AsyncGenerator[bytes, None]:
    try:
        async with door.kernel.run(door.caller, request, command) as run, foreground(run.process) as course:
            about = {
                "sandbox_id": run.sandbox_id,
                "backend": run.backend,
                "isolation": run.isolation.label,
                "notices": [notice_record(notice) for notice in run.notices],
            }
            yield _started(run.process.exec_id, pid=run.process.pid, **about)
            async with fed(run.process, data or None), aclosing(_course(course, (0, 0))) as events:
                async for each in events:
                    yield each
    except CommandNotStarted as error:
        yield event(not_started(error), name="exit")


async def _exec(door: Door, name: str, command: Command, data: bytes) -> AsyncGenerator[bytes, None]:
    try:
        async with opened(door, name) as sandbox, foreground(await sandbox.start(command)) as course:
            yield _started(course.process.exec_id, pid=course.process.pid)
            async with fed(course.process, data or None), aclosing(_course(course, (0, 0))) as events:
                async for each in events:
                    yield each
    except CommandNotStarted as error:
        yield event(not_started(error), name="exit")


async def _attach(door: Door, name: str, exec_id: int, offsets: tuple[int, int]) -> AsyncGenerator[bytes, None]:
    async with recorded(door, name, exec_id, offsets) as course:
        yield _started(exec_id)
        async with aclosing(_course(course, offsets)) as events:
            async for each in events:
                yield each


def _started(exec_id: int, **about: Any) -> bytes:
    return event({"exec_id": exec_text(exec_id), **about}, name="started")


async def _course(course: Course, offsets: tuple[int, int]) -> AsyncGenerator[bytes, None]:
    """The output and the end."""
    texts = Texts(offsets)
    async with aclosing(course.output()) as pieces:
        async for piece in pieces:
            if (said := texts.told(*piece)) is not None:
                yield event(said, name=STREAMS[piece.stream], ident=texts.ends)
    for stream in (1, 2):
        if (said := texts.rest(stream)) is not None:
            yield event(said, name=STREAMS[stream], ident=texts.ends)
    stdout, stderr = _offsets(texts.ends)
    yield event({**await course.end(), "stdout_bytes": stdout, "stderr_bytes": stderr}, name="exit", ident=texts.ends)


def _offsets(text: str) -> tuple[int, int]:
    """The id of an event."""
    found = re.fullmatch(r"([0-9]{1,19}),([0-9]{1,19})", text, re.ASCII)
    if found is None or int(found[1]) > MAX_OFFSET or int(found[2]) > MAX_OFFSET:
        raise InvalidInput(f"Last-Event-ID: {text[:80]!r} is no id of an event of a command", hint="two offsets, such as 1024,0")
    return int(found[1]), int(found[2])


def _check(body: InputBody) -> None:
    if "output_limit_bytes" in body.model_fields_set:
        raise InvalidInput("output_limit_bytes: a stream is never cut", hint="leave it out")
