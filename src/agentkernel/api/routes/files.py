"""/sandboxes/{name}/files and what belongs to it: files as JSON, of up to 8 MiB; larger ones go through `download` and `upload`.

Every operation is done inside, as the sandbox's user: a path can name no more than a command there could.
"""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable
from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from agentkernel.api.budget import Shared
from agentkernel.api.doors import Asked
from agentkernel.api.envelope import answer
from agentkernel.api.lengthy import SMALL, in_base64, is_text, text, told
from agentkernel.api.shapes import FileBody, FilesBody, MakeDirectoryBody, MoveBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_sandboxes import Entry, File, Written
from agentkernel.api.streams.places import Inside
from agentkernel.api.wishes import content_of, path_of
from agentkernel.text.records import file_record

router = APIRouter(prefix="/sandboxes/{name}", tags=["files"])

MOST_BYTES: Final = 8 << 20
DEFAULT_MODE: Final = "644"
Offset = Annotated[int, Query(ge=0, le=2**62)]


@router.get("/files/{path:rest}", operation_id="file_read", responses=said(File))
async def file_read(
    name: str,
    path: Inside,
    door: Asked,
    share: Shared,
    offset: Offset = 0,
    length: Annotated[int | None, Query(ge=0, le=MOST_BYTES)] = None,
) -> Response:
    """A regular file's content: text where it is UTF-8, else base64."""

    def read(most: int | None) -> Awaitable[bytes]:
        return door.handles.start(name, lambda _, sandbox: sandbox.files.read(path, offset=offset, length=most, limit_bytes=MOST_BYTES))

    most = MOST_BYTES if length is None else length
    data = await read(min(most, SMALL))
    if len(data) == SMALL < most:  # there may be more of it, and that must have room
        share.claim(most)
        data = await read(length)
    content = {"content": text(data), "encoding": "utf8"} if is_text(data) else {"content": in_base64(data), "encoding": "base64"}
    return told(content | {"size": len(data)}, len(data))


@router.put("/files/{path:rest}", operation_id="file_write", responses=said(str))
async def file_write(name: str, path: Inside, body: FileBody, door: Asked) -> Response:
    """Creates or replaces a file, with the directories above it."""
    data = content_of(body)
    await door.handles.start(name, lambda _, sandbox: sandbox.files.write(path, data, mode=int(body.mode, 8), parents=True))
    return answer(f"Wrote {len(data)} bytes to {path}")


@router.delete("/files/{path:rest}", operation_id="file_remove", responses=said(str))
async def file_remove(
    name: str, path: Inside, door: Asked, recursive: Annotated[bool, Query(description="A directory with all that is in it.")] = False
) -> Response:
    """Removes a file, an empty directory or a tree; never follows a symlink."""
    await door.handles.start(name, lambda _, sandbox: sandbox.files.remove(path, recursive=recursive))
    return answer(f"Deleted {path}")


@router.post("/files", operation_id="file_write_many", responses=said(Written))
async def file_write_many(name: str, body: FilesBody, door: Asked) -> Response:
    """Writes files, in their order; the first that fails ends it."""
    files = [(path_of(path), content_of(given), given) for path, given in body.files.items()]
    async with door.handles.use(name) as (_, sandbox):
        for path, data, given in files:
            mode = given.mode if isinstance(given, FileBody) else DEFAULT_MODE
            await sandbox.files.write(path, data, mode=int(mode, 8), parents=True)
    return answer({"written": len(files)})


@router.get("/stat/{path:rest}", operation_id="file_stat", responses=said(Entry))
async def file_stat(name: str, path: Inside, door: Asked, follow: Annotated[bool, Query(description="Symlinks.")] = True) -> Response:
    """What is at a path."""
    found = await door.handles.start(name, lambda _, sandbox: sandbox.files.stat(path, follow=follow))
    return answer(file_record(found) | {"name": posixpath.basename(path.rstrip("/")) or "/"})


@router.get("/list/{path:rest}", operation_id="file_list", responses=said(list[Entry]))
async def file_list(name: str, path: Inside, door: Asked) -> Response:
    """What is in a directory, by name."""
    found = await door.handles.start(name, lambda _, sandbox: sandbox.files.list(path))
    return answer([file_record(each) for each in sorted(found, key=lambda each: each.name)])


@router.post("/move", operation_id="file_move", responses=said(str))
async def file_move(name: str, body: MoveBody, door: Asked) -> Response:
    """Renames, replacing a file that is there."""
    source, target = path_of(body.source), path_of(body.target)
    await door.handles.start(name, lambda _, sandbox: sandbox.files.move(source, target))
    return answer(f"Moved {source} to {target}")


@router.post("/mkdir", operation_id="file_mkdir", responses=said(str))
async def file_mkdir(name: str, body: MakeDirectoryBody, door: Asked) -> Response:
    """Makes a directory."""
    path = path_of(body.path)
    await door.handles.start(name, lambda _, sandbox: sandbox.files.make_directory(path, mode=int(body.mode, 8), parents=body.parents))
    return answer(f"Made {path}")
