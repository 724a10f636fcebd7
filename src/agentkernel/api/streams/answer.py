"""An answer that flows: produced as the client takes it, and ended at once when the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentkernel.api.attended import left
from agentkernel.errors import AgentKernelError

Opened = AbstractAsyncContextManager[AsyncIterator[bytes]]


class Flowing(Response):
    """A body of which nothing is held but the piece that is being sent: a client that does not read holds its source up.

    What fails before the first piece is an error answer like any other. What fails later cuts the body off, so that nobody takes a part
    for the whole; a source with words for that (`sse`) says them itself.

    A source that knows the length says it as the header `content-length` before its first piece; one that then gives less is cut off too.

    Args:
        open_: opens the source. It is closed when its last piece has been sent, or when the client has gone, whatever it waits for.
    """

    def __init__(self, open_: Callable[[], Opened], media_type: str, status_code: int = 200) -> None:
        self._open = open_
        self.status_code = status_code
        self.media_type = media_type
        self.background = None
        self.body = b""
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        begun, size = False, 0
        try:
            async with self._open() as pieces:
                async for piece in pieces:
                    if not begun:
                        begun = True
                        await self._begin(send)
                    size += len(piece)
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except AgentKernelError:
            if not begun:
                raise
            return  # without the end: the server breaks the connection off
        if not begun:
            await self._begin(send)
        if int(self.headers.get("content-length", size)) == size:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
