"""How sandboxes end: removal that a cancellation does not cut short, and their own end when the engine was killed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from agentkernel.abc import Sandbox

LINGER_S = 15.0  # a killed engine's sandboxes end by themselves; longer than the channel tries to re-attach


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Finishes `work` though the caller is cancelled meanwhile, however often; the cancellation is delivered afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def let_go_unless(sandbox: Sandbox, end: Callable[[], Awaitable[None]]) -> None:
    """Ends a sandbox; if that fails, at least lets go of it, so that the next attempt finds it."""
    try:
        await end()
    except BaseException:
        await sandbox.close()
        raise
