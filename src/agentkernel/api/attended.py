"""Work that is done only while somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

QUICK_S = 0.05  # most work ends before it is worth while to look whether the client is still there
CLIENT_GONE = 499  # as other servers log it; nobody is there to read it


async def attended(request: Request, work: Awaitable[Response]) -> Response:
    """The answer that `work` gives. When the client goes, the work is cancelled, which kills its command. The body must have been read."""
    watch = _Watch(request.receive)
    begins = asyncio.get_running_loop().call_later(QUICK_S, watch.begin)
    try:
        return await work
    except asyncio.CancelledError:
        if not watch.is_alone:
            raise
        return Response(status_code=CLIENT_GONE)
    finally:
        begins.cancel()
        await watch.end()


class _Watch:
    """Cancels the task that made it when its client has gone."""

    def __init__(self, receive: Receive) -> None:
        self.is_alone = False  # the client has gone, and the task was cancelled for that
        self._receive = receive
        self._task = asyncio.current_task()
        self._looking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Looks from now on."""
        self._looking = asyncio.create_task(self._look())

    async def end(self) -> None:
        """Looks no more; the task may wait again."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self.is_alone and self._task is not None:
            self._task.uncancel()

    async def _look(self) -> None:
        await left(self._receive)
        if self._task is not None:
            self.is_alone = True
            self._task.cancel()


async def left(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
