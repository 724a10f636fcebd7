"""The transport of a server that a client starts: requests on stdin, answers on stdout, and nothing else there."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import threading
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from agentkernel.mcp.desk import Desk
from agentkernel.mcp.server import build

MAX_LINE: Final = 32 * 1024 * 1024  # bytes of one message
_PIECE: Final = 64 * 1024
# An escape in JSON: of a pair of surrogates, of one alone, or another.
_ESCAPE: Final = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)")
_LOG = logging.getLogger(__name__)


async def serve(desk: Desk) -> None:
    """Serves one client until stdin ends, SIGTERM or SIGINT; then what runs is ended and the temporary sandboxes are removed."""
    loop, serving = asyncio.get_running_loop(), asyncio.current_task()
    assert serving is not None  # noqa: S101 - this is a coroutine
    loop.add_signal_handler(signal.SIGTERM, serving.cancel)
    try:
        await _served(build(lambda: desk))
    except asyncio.CancelledError:
        serving.uncancel()  # it was asked to end, and does so in order
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        await desk.clear()
        await desk.kernel.close()


async def _served(server: Server[Any]) -> None:
    descriptor = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # what this process starts must not read the client's messages
    os.close(nothing)
    stdin = cast("anyio.AsyncFile[str]", _lines(descriptor))
    try:
        async with stdio_server(stdin=stdin) as (read, write):
            await server.run(read, write, server.create_initialization_options())
    except* (BrokenPipeError, ConnectionResetError):
        pass  # the client does not listen any more


async def _lines(descriptor: int) -> AsyncIterator[str]:
    """The lines of a descriptor, each of at most `MAX_LINE` bytes: a longer one is the end."""
    held: list[bytes] = []
    size = 0
    async for piece in _pieces(descriptor):
        first, *others = piece.split(b"\n")
        held.append(first)
        size += len(first)
        for other in others:
            yield _whole(b"".join(held).decode("utf-8", "replace"))
            held, size = [other], len(other)
        if size > MAX_LINE:
            _LOG.error("a message is longer than %d bytes: the client is not listened to any more", MAX_LINE)
            return
    if size:
        yield _whole(b"".join(held).decode("utf-8", "replace"))


def _whole(line: str) -> str:
    """The line without escapes of half a character, which some clients send: the SDK would take it for no message, and answer nobody.

    In their place stands U+FFFD, as where browsers turn such text into bytes.
    """
    return _ESCAPE.sub(lambda found: "\\ufffd" if found["half"] else found[0], line) if "\\ud" in line.lower() else line


async def _pieces(descriptor: int) -> AsyncIterator[bytes]:
    """What can be read of it, to its end. A thread does that which is a daemon: a read that blocks must not hold up the process's end."""
    loop = asyncio.get_running_loop()
    taken, pieces = threading.Semaphore(0), asyncio.Queue[bytes](1)

    def give(piece: bytes) -> bool:
        try:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)
        except RuntimeError:
            return False  # the loop has ended before the client
        taken.acquire()
        return True

    def read() -> None:
        piece = b" "
        while piece:
            try:
                piece = os.read(descriptor, _PIECE)
            except OSError:
                piece = b""
            if not give(piece):
                return

    threading.Thread(target=read, name="mcp-stdin", daemon=True).start()
    while piece := await pieces.get():
        yield piece
        taken.release()
