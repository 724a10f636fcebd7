"""Files inside a sandbox, read and written as a command in it could; images are shown as images."""

from __future__ import annotations

import base64
from typing import Final

from mcp_types import ImageContent

from agentkernel.abc import Files
from agentkernel.errors import InvalidInput
from agentkernel.mcp.answer import Answer, said, text_block
from agentkernel.mcp.arguments import MoveArguments, PathArguments, ReadArguments, RemoveArguments, WriteArguments, WriteFilesArguments
from agentkernel.mcp.desk import Desk, Tell
from agentkernel.mcp.shapes import Directory, Done, FileContent, Written, file_of
from agentkernel.model.names import validate_inside_path

MAX_IMAGE_BYTES: Final = 5 * 1024 * 1024
MAX_ENTRIES: Final = 1000
_MAGIC_BYTES: Final = 16


async def read(desk: Desk, arguments: ReadArguments, tell: Tell) -> Answer:
    """Text as text, images as images, all else in base64."""
    path = validate_inside_path(arguments.path)
    async with desk.opened(arguments.name) as sandbox:
        files = sandbox.files
        size = (await files.stat(path)).size_bytes
        if not arguments.offset and size <= MAX_IMAGE_BYTES and (kind := _image_kind(await _piece(files, path, 0, _MAGIC_BYTES))):
            return _image(path, kind, await _piece(files, path, 0, MAX_IMAGE_BYTES))
        data = await _piece(files, path, arguments.offset, arguments.limit_bytes + 1)
    return _text(path, size, arguments, data)


async def write(desk: Desk, arguments: WriteArguments, tell: Tell) -> Answer:
    """Made or replaced, with the directories above it."""
    path = validate_inside_path(arguments.path)
    data = _bytes(arguments)
    mode = 0o755 if arguments.executable else 0o644
    async with desk.opened(arguments.name) as sandbox:
        await sandbox.files.write(path, data, mode=mode, parents=True, append=arguments.append)
    return said(Written(name=arguments.name, files=[path], bytes=len(data)), f"Wrote {len(data)} bytes to {path}.")


async def write_files(desk: Desk, arguments: WriteFilesArguments, tell: Tell) -> Answer:
    """Several at once; when one fails, those before it are written."""
    contents = {validate_inside_path(path): content.encode() for path, content in arguments.files.items()}
    async with desk.opened(arguments.name) as sandbox:
        for path, data in contents.items():
            await sandbox.files.write(path, data, parents=True)
    total = sum(map(len, contents.values()))
    shape = Written(name=arguments.name, files=list(contents), bytes=total)
    return said(shape, f"Wrote {len(contents)} files, {total} bytes in all.")


async def listed(desk: Desk, arguments: PathArguments, tell: Tell) -> Answer:
    """One directory, by name."""
    path = validate_inside_path(arguments.path)
    async with desk.opened(arguments.name) as sandbox:
        records = sorted(await sandbox.files.list(path), key=lambda record: record.name)
    entries = list(map(file_of, records[:MAX_ENTRIES]))
    more = len(records) - len(entries)
    lines = [f"{each.kind}\t{each.size_bytes}\t{each.name}" for each in entries]
    lines += [f"... and {more} more"] if more else []
    return said(Directory(path=path, entries=entries, more=more), "\n".join(lines) if lines else "The directory is empty.")


async def stat(desk: Desk, arguments: PathArguments, tell: Tell) -> Answer:
    """One path; a symlink is described itself."""
    path = validate_inside_path(arguments.path)
    async with desk.opened(arguments.name) as sandbox:
        shape = file_of(await sandbox.files.stat(path, follow=False))
    return said(shape, f"{path}: {shape.kind}, {shape.size_bytes} bytes, mode {shape.mode}")


async def remove(desk: Desk, arguments: RemoveArguments, tell: Tell) -> Answer:
    """A file or a directory."""
    path = validate_inside_path(arguments.path)
    async with desk.opened(arguments.name) as sandbox:
        await sandbox.files.remove(path, recursive=arguments.recursive)
    return said(Done(name=arguments.name, done=f"removed {path}"), f"Removed {path}.")


async def move(desk: Desk, arguments: MoveArguments, tell: Tell) -> Answer:
    """Renamed; a file that is there is replaced."""
    source, target = validate_inside_path(arguments.path), validate_inside_path(arguments.target)
    async with desk.opened(arguments.name) as sandbox:
        await sandbox.files.move(source, target)
    return said(Done(name=arguments.name, done=f"moved {source} to {target}"), f"Moved {source} to {target}.")


async def make_directory(desk: Desk, arguments: PathArguments, tell: Tell) -> Answer:
    """With those above it; one that is there is fine."""
    path = validate_inside_path(arguments.path)
    async with desk.opened(arguments.name) as sandbox:
        await sandbox.files.make_directory(path, parents=True)
    return said(Done(name=arguments.name, done=f"made {path}"), f"Made the directory {path}.")


async def _piece(files: Files, path: str, offset: int, length: int) -> bytes:
    return await files.read(path, offset=offset, length=length, limit_bytes=length)


def _image_kind(magic: bytes) -> str:
    """The media type of a picture that models can see; empty for all else."""
    if magic.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if magic.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if magic.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if magic[:4] == b"RIFF" and magic[8:12] == b"WEBP" else ""


def _image(path: str, kind: str, data: bytes) -> Answer:
    shape = FileContent(
        path=path,
        size_bytes=len(data),
        offset=0,
        bytes=len(data),
        encoding="image",
        mime_type=kind,
        content="",
        truncated=False,
        next_offset=None,
    )
    picture = ImageContent(type="image", data=base64.b64encode(data).decode(), mime_type=kind)
    return Answer(shape=shape, blocks=(picture, text_block(f"{path}: {kind}, {len(data)} bytes")))


def _text(path: str, size: int, arguments: ReadArguments, data: bytes) -> Answer:
    more = len(data) > arguments.limit_bytes
    data = data[: arguments.limit_bytes]
    text = _decoded(data, more)
    kept = data if text is None else data[: len(text.encode())]
    end = arguments.offset + len(kept)
    shape = FileContent(
        path=path,
        size_bytes=size,
        offset=arguments.offset,
        bytes=len(kept),
        encoding="base64" if text is None else "utf8",
        mime_type="application/octet-stream" if text is None else "text/plain",
        content=base64.b64encode(kept).decode() if text is None else text,
        truncated=more,
        next_offset=end if more else None,
    )
    said_first = "" if text is not None else f"[binary file, {len(kept)} bytes, base64 encoded]\n"
    said_last = f"\n[... the file goes on: {size} bytes in all; read on from offset {end} ...]" if more else ""
    return said(shape, f"{said_first}{shape.content}{said_last}")


def _decoded(data: bytes, more: bool) -> str | None:
    """As text, without a character that the end of the piece goes through; None for what is none."""
    for cut in range(4 if more else 1):
        try:
            text = data[: len(data) - cut].decode()
        except UnicodeDecodeError:
            continue
        return None if "\0" in text else text
    return None


def _bytes(arguments: WriteArguments) -> bytes:
    if arguments.encoding == "utf8":
        return arguments.content.encode()
    try:
        return base64.b64decode(arguments.content, validate=True)
    except ValueError:
        raise InvalidInput("content is not base64", hint="leave encoding out for text") from None
