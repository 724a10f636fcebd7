"""A command over a WebSocket: its output and end one way, input, sizes and signals the other.

binary frames     one byte, the stream (0 input, 1 stdout or the terminal, 2 stderr), and the bytes
text frames       JSON. To the command: {"resize": {"rows": 24, "columns": 80}}, {"signal": 2, "tree": false}, {"eof": true}
                  From it: {"started": {"exec_id": ..., "pid": ...}} first, {"exit_code": ..., ...} last;
                  {"lost": {"stream": 1, "bytes": 9}}; {"waiting": "stdin"} while the command does not read;
                  an error's envelope, which ends nothing where a message was wrong

While the client does not read, the command waits, and while the command does not read, the client does.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any, Final

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from agentkernel.abc import Process
from agentkernel.api.envelope import encoded, problem
from agentkernel.api.shapes import Body, Side
from agentkernel.api.streams.course import Course
from agentkernel.errors import AgentKernelError, InvalidInput
from agentkernel.model.command import TerminalSize

STDIN: Final = 0
WAITING_S: Final = 5.0  # after which a client whose input waits is told so: else nobody would notice that it has gone
FIRST_S: Final = 30.0  # for the first message


class Size(Body):
    """Of a terminal."""

    rows: Side
    columns: Side


class Word(Body):
    """A text frame of the client behind the first one; what it says is done in this order."""

    resize: Size | None = None
    signal: int | None = None
    tree: bool = False
    eof: bool = False


async def first_message(websocket: WebSocket) -> Any:
    """The JSON of the first message; raises InvalidInput for what is none, and for none in time."""
    try:
        async with asyncio.timeout(FIRST_S):
            message = await websocket.receive()
    except TimeoutError:
        raise InvalidInput(f"no first message came within {FIRST_S:g} seconds") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    return _json(message.get("text"))


async def say(websocket: WebSocket, said: Any) -> None:
    """Sends a text frame."""
    await websocket.send({"type": "websocket.send", "text": encoded(said).decode()})


async def converse(websocket: WebSocket, process: Process | None, course: Course, offsets: tuple[int, int]) -> dict[str, Any] | None:
    """Carries both ways until the command has ended, and returns its end; None when the client has gone before.

    Without a `process` nobody is there any more to take input.
    """
    telling = asyncio.create_task(_tell(websocket, course, offsets))
    hearing = asyncio.create_task(_hear(websocket, process))
    try:
        await asyncio.wait((telling, hearing), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (telling, hearing):
            task.cancel()
        await asyncio.gather(telling, hearing, return_exceptions=True)
    if not telling.cancelled():
        return telling.result()
    if not hearing.cancelled():
        hearing.result()
    return None


async def _tell(websocket: WebSocket, course: Course, offsets: tuple[int, int]) -> dict[str, Any]:
    ends = [0, *offsets]
    async with aclosing(course.output()) as pieces:
        async for stream, offset, data in pieces:
            if offset != ends[stream]:
                await say(websocket, {"lost": {"stream": stream, "bytes": offset - ends[stream]}})
            ends[stream] = offset + len(data)
            if data:
                await websocket.send({"type": "websocket.send", "bytes": bytes((stream,)) + data})
    return {**await course.end(), "stdout_bytes": ends[1], "stderr_bytes": ends[2]}


async def _hear(websocket: WebSocket, process: Process | None) -> None:
    """Returns when the client has gone."""
    while (message := await websocket.receive())["type"] != "websocket.disconnect":
        if process is None:
            continue
        try:
            if (data := message.get("bytes")) is not None:
                if data[:1] != bytes((STDIN,)):
                    raise InvalidInput("a binary frame to a command begins with a byte 0")
                await _feed(websocket, process, data[1:])
            else:
                await _obey(process, Word.model_validate(_json(message.get("text"))))
        except ValidationError as error:
            await say(websocket, problem(InvalidInput(f"a text frame: {error.errors()[0]['msg']}")))
        except InvalidInput as error:
            await say(websocket, problem(error))


async def _feed(websocket: WebSocket, process: Process, data: bytes) -> None:
    writing = asyncio.ensure_future(process.write_stdin(data))
    try:
        while not (await asyncio.wait((writing,), timeout=WAITING_S))[0]:
            await say(websocket, {"waiting": "stdin"})
        writing.result()
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _obey(process: Process, word: Word) -> None:
    if word.resize is not None:
        await process.resize(TerminalSize(rows=word.resize.rows, columns=word.resize.columns))
    if word.signal is not None:
        await process.signal(word.signal, tree=word.tree)
    if word.eof:
        await process.close_stdin()


def _json(text: str | None) -> Any:
    if text is None:
        raise InvalidInput("the first message is JSON text", hint='for example: {"command": ["cat"]}')
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput("a text frame is no JSON") from None


async def fail(websocket: WebSocket, error: AgentKernelError) -> None:
    """Says what went wrong, in full: the reason of a close has little room."""
    await say(websocket, problem(error))
