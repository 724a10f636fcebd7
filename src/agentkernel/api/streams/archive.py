"""Trees as tar archives, both ways; nothing of them is held here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from agentkernel.api.doors import Asked
from agentkernel.api.envelope import answer
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_sandboxes import Unpacked
from agentkernel.api.streams.answer import Flowing
from agentkernel.api.streams.extract import Extraction
from agentkernel.api.streams.files import Body
from agentkernel.api.streams.pack import packed
from agentkernel.api.streams.places import Inside, opened

router = APIRouter(tags=["streams"])

TAR: Final = "application/x-tar"
ARCHIVE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The archive.", "content": {TAR: {"schema": {"type": "string", "format": "binary"}}}}
}
BODY: Final[dict[str, Any]] = {"requestBody": {"required": True, "content": {TAR: {"schema": {"type": "string", "format": "binary"}}}}}


@router.get("/sandboxes/{name}/archive/{path:rest}", operation_id="archive_download", response_class=Flowing, responses=ARCHIVE)
async def archive_download(name: str, path: Inside, door: Asked) -> Flowing:
    """What is in a directory, as a tar archive with names relative to it; or one file. An answer that breaks off is no whole archive."""

    @asynccontextmanager
    async def source() -> AsyncIterator[AsyncIterator[bytes]]:
        async with opened(door, name) as sandbox, aclosing(packed(sandbox.files, path)) as pieces:
            yield pieces

    return Flowing(source, TAR)


@router.put("/sandboxes/{name}/archive/{path:rest}", operation_id="archive_upload", openapi_extra=BODY, responses=said(Unpacked))
async def archive_upload(name: str, path: Inside, request: Request, door: Asked) -> Response:
    """Extracts a tar archive, plain or gzip, into a directory, which is made where there is none.

    Files that are there are replaced, directories merged. Permission bits and symlinks are kept; owners, times and setuid bits are not,
    devices are skipped, hard links become files of their own. A member that leads out of the directory is an error; what came before it
    stays.
    """
    async with opened(door, name) as sandbox:
        done = await Extraction(sandbox.files, path).run(Body(request).pieces())
    return answer({"path": path, **done.record()})
