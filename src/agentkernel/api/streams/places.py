"""What the path of a request names: a sandbox, and a place inside it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import Depends
from starlette.requests import HTTPConnection

from agentkernel.abc import Sandbox
from agentkernel.api.doors import Door
from agentkernel.errors import InvalidInput

T = TypeVar("T")
_BEFORE = 4  # "/sandboxes/{name}/{verb}/" splits into these


async def inside_path(connection: HTTPConnection) -> str:
    """The absolute path inside that stands behind `/sandboxes/{name}/{verb}/`, decoded once, byte for byte: names need not be UTF-8.

    Nothing is resolved here: `..` means what it means to a command in the sandbox. Raises InvalidInput for a NUL, which no name has.
    """
    raw: bytes = connection.scope.get("raw_path") or connection.scope["path"].encode()
    root = connection.scope.get("root_path", "").encode()
    parts = raw.removeprefix(root).split(b"?", 1)[0].split(b"/", _BEFORE)
    path = b"/" + unquote_to_bytes(parts[_BEFORE] if len(parts) > _BEFORE else b"").lstrip(b"/")
    if b"\0" in path:
        raise InvalidInput("a path holds a NUL")
    return os.fsdecode(path)


Inside = Annotated[str, Depends(inside_path)]


@asynccontextmanager
async def opened(door: Door, name: str) -> AsyncIterator[Sandbox]:
    """A running sandbox over a handle of its own, for a block: where that is a connection, foreground commands on it end with it.

    Raises NotFound, and Conflict when it does not run.
    """
    sandbox = await door.kernel.open(door.caller, name)
    try:
        yield sandbox
    finally:
        await sandbox.close()


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """An iterator of a sandbox, which is closed when it is left before its end: what it runs inside ends with it."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()
