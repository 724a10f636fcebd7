"""Files as streams: of any size, nothing of them held here."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from agentkernel.abc import Files
from agentkernel.api.doors import Asked
from agentkernel.api.envelope import answer
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_sandboxes import Uploaded
from agentkernel.api.streams.answer import Flowing
from agentkernel.api.streams.places import Inside, closing, opened
from agentkernel.errors import AgentKernelError, InvalidInput

router = APIRouter(tags=["streams"])

BYTES: Final = "application/octet-stream"
MAX_OFFSET: Final = 2**62
CONTENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The bytes.", "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}
}
BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}},
}
Mode = Annotated[str, Query(pattern="^[0-7]{1,4}$", description="Permission bits, in octal.")]


@router.get("/sandboxes/{name}/download/{path:rest}", operation_id="file_download", response_class=Flowing, responses=CONTENT)
async def file_download(
    name: str,
    path: Inside,
    door: Asked,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
    length: Annotated[int | None, Query(ge=0, le=MAX_OFFSET)] = None,
) -> Flowing:
    """A file's bytes, as long as it was when it was opened. An answer that breaks off is no whole file, and shows as that to its reader."""

    @asynccontextmanager
    async def source() -> AsyncIterator[AsyncIterator[bytes]]:
        async with opened(door, name) as sandbox:
            record, size = await sandbox.files.stat(path), length
            if stat.S_ISREG(record.mode) and record.size_bytes:  # else, as in /proc, reading alone tells
                rest = max(0, record.size_bytes - offset)
                size = rest if length is None else min(length, rest)
                flowing.headers["content-length"] = str(size)
            async with closing(sandbox.files.read_stream(path, offset=offset, length=size)) as pieces:
                yield pieces

    flowing = Flowing(source, BYTES)
    return flowing


@router.put("/sandboxes/{name}/upload/{path:rest}", operation_id="file_upload", openapi_extra=BODY, responses=said(Uploaded))
async def file_upload(
    name: str, path: Inside, request: Request, door: Asked, mode: Mode = "644", parents: bool = False, append: bool = False
) -> Response:
    """The body becomes the file, when all of it has come: what breaks off leaves the old one, or none.

    With `append` it is added to the file as it comes.
    """
    if path.endswith("/"):
        raise InvalidInput(f"{path!r} is a directory's name", hint="name the file in it")
    body = Body(request)
    async with opened(door, name) as sandbox:
        if append:
            await sandbox.files.write(path, body.pieces(), mode=int(mode, 8), parents=parents, append=True)
        else:
            await _replace(sandbox.files, path, body, mode=int(mode, 8), parents=parents)
    return answer({"path": path, "bytes": body.bytes})


class Body:
    """The body of a request, and how much of it has come."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.bytes = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._request.stream():
                self.bytes += len(piece)
                if piece:
                    yield piece
        except ClientDisconnect:
            raise InvalidInput("the body broke off") from None


async def _replace(files: Files, path: str, body: Body, *, mode: int, parents: bool) -> None:
    """Writes beside the file and renames: nobody sees a half."""
    beside = posixpath.join(posixpath.dirname(path), f".agentkernel-{os.urandom(8).hex()}")
    try:
        await files.write(beside, body.pieces(), mode=mode, parents=parents, exclusive=True)
        await files.move(beside, path)
    except BaseException:
        with suppress(AgentKernelError):  # the first failure is what counts; nothing may have been made
            await files.remove(beside)
        raise
