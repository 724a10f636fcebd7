"""What the path of a request names: a sandbox, and a place inside it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

from fastapi import Depends
from starlette.requests import HTTPConnection

from agentkernel.abc import Sandbox
from agentkernel.api.doors import Door
from agentkernel.errors import InvalidInput

T = TypeVar("T")


async def inside_path(connection: HTTPConnection) -> str:
    """The absolute path inside that stands behind `/sandboxes/{name}/{verb}/`, as the route that was found by it has it (see `api.paths`).

    Nothing is resolved here: `..` means what it means to a command in the sandbox. Raises InvalidInput for a NUL, which no name has.
    """
    path = "/" + str(connection.path_params["path"]).lstrip("/")
    if "\0" in path:
        raise InvalidInput("a path holds a NUL")
    return path


Inside = Annotated[str, Depends(inside_path)]


@asynccontextmanager
async def opened(door: Door, name: str) -> AsyncIterator[Sandbox]:
    """A running sandbox over a handle of its own, for a block: where that is a connection, foreground commands on it end with it.

    Raises NotFound, Conflict when it does not run, and Busy when there are too many such.
    """
    async with door.seats.held():
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
