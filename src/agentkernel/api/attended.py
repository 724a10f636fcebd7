"""Work that is done only while somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

QUICK_S = 0.05  # most work ends before it is worth while to look whether the client is still there
CLIENT_GONE = 499  # as other servers log it; nobody is there to read it


async def attended(request: Request, work: Awaitable[Response]) -> Response:
    """The answer that `work` gives. When the client goes, the work is cancelled, which kills its command. The body must have been read."""
    working = asyncio.ensure_future(work)
    waiting: list[asyncio.Future[Any]] = [working]
    try:
        await asyncio.wait((working,), timeout=QUICK_S)
        if not working.done():
            waiting.append(asyncio.create_task(left(request.receive)))
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=CLIENT_GONE)
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def left(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
