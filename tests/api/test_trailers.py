"""What follows the last piece of a chunked body is headers too: it has the bounds of headers, whoever sends it and whether or not he was answered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from agentkernel.api.limits import Limits
from agentkernel.api.protocol import guarded

BOUNDS = Limits(header_bytes=1024, header_s=60.0, body_idle_s=60.0, unread_s=60.0)
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


async def hasty(scope: Any, receive: Any, send: Any) -> None:
    """Answers without a look at the body, as the gate does to who has no token."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


async def patient(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the number of bytes of the body."""
    scope["state"]["begun"].set()
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    said = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.Event]]:
    """Both ends of a connection as its client has them; the event is set when the headers have been read."""
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    config = Config(app, http=guarded(BOUNDS, local=False), log_config=None, lifespan="off")
    config.load()
    protocol = guarded(BOUNDS, local=False)
    theirs, ours = socket.socketpair()
    transport, _ = await loop.connect_accepted_socket(lambda: protocol(config, ServerState(), {"begun": begun}, loop), theirs)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        yield reader, writer, begun
    finally:
        writer.close()
        transport.abort()


async def put(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    """Sends them one by one, so that each is read by itself as far as that is to be had."""
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)


async def endless(writer: asyncio.StreamWriter) -> None:
    """A trailer that only a cut ends."""
    while True:
        await put(writer, b"x" * 512)


@pytest.mark.parametrize("first", [b"0\r\nX: ", b"0\r\n", b"1;"])
async def test_a_trailer_without_end_is_cut_off_before_the_answer(first: bytes) -> None:
    async with client_of(patient) as (reader, writer, begun):
        await put(writer, HEAD)
        await begun.wait()
        await put(writer, first + b"x" * 1024)  # no more than is read: what is left unread takes the answer with it
        assert b" 431 " in await reader.readline()


async def test_a_trailer_without_end_is_cut_off_after_the_answer() -> None:
    async with client_of(hasty) as (reader, writer, _):
        await put(writer, HEAD)
        assert b" 401 " in await reader.readuntil(b"\r\n\r\nno")
        with pytest.raises(ConnectionError):
            await put(writer, b"0\r\nX: ")
            await endless(writer)


async def test_a_body_of_many_small_pieces_is_no_header() -> None:
    async with client_of(patient) as (reader, writer, _):
        await put(writer, HEAD, *[piece for _ in range(1000) for piece in (b"1\r\n", b"x\r\n")], b"0\r\nX: y\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n1000")).startswith(b"HTTP/1.1 200 ")
