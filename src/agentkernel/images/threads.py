"""Work that blocks, in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def to_its_end(function: Callable[..., object], *arguments: object) -> None:
    """Calls it in a thread, and waits for its end though the caller is cancelled meanwhile: what it works on may be closed afterwards."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    cancelled: asyncio.CancelledError | None = None
    while not call.done():
        try:
            await asyncio.shield(call)
        except asyncio.CancelledError as error:
            cancelled = error
    call.result()
    if cancelled is not None:
        raise cancelled
