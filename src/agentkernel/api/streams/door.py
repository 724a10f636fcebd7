"""The daemon's own byte stream (docs/door-protocol.md) through a WebSocket: to a client elsewhere as good as the daemon's socket."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from typing import Final

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from agentkernel.api.doors import Asked, Built
from agentkernel.errors import InvalidInput, Unsupported

router = APIRouter(tags=["streams"])

SUBPROTOCOL: Final = "agentkernel.door.v1"
VERSION_HEADER: Final = b"agentkernel-version"  # by which a client of another version knows that it is one
CHUNK_BYTES: Final = 256 * 1024


@router.websocket("/door")
async def door_tunnel(websocket: WebSocket, door: Asked, parts: Built) -> None:
    """Binary frames are the bytes, wherever they are cut; what this token may do is what the daemon lets it do."""
    if SUBPROTOCOL not in websocket.scope["subprotocols"]:
        raise InvalidInput("this is no page", hint=f"a client asks for the subprotocol {SUBPROTOCOL}")
    if parts.tunnel is None:
        raise Unsupported("this server has no daemon behind it", hint="start it without AGENTKERNEL_DAEMON=off")
    async with door.seats.held():
        reader, writer = await parts.tunnel(door.caller)
        try:
            await websocket.accept(subprotocol=SUBPROTOCOL, headers=[(VERSION_HEADER, parts.version.encode())])
            await _carry(websocket, reader, writer)
        finally:
            writer.close()


async def _carry(websocket: WebSocket, reader: StreamReader, writer: StreamWriter) -> None:
    """Copies both ways until one side ends."""
    ways = (asyncio.create_task(_out(websocket, reader)), asyncio.create_task(_in(websocket, writer)))
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        for outcome in await asyncio.gather(*ways, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, OSError | WebSocketDisconnect):
                raise outcome


async def _out(websocket: WebSocket, reader: StreamReader) -> None:
    while data := await reader.read(CHUNK_BYTES):
        await websocket.send({"type": "websocket.send", "bytes": data})
    await websocket.close()


async def _in(websocket: WebSocket, writer: StreamWriter) -> None:
    while (message := await websocket.receive())["type"] != "websocket.disconnect":
        data = message.get("bytes")
        if data is None:
            raise InvalidInput("the door takes binary frames alone")
        writer.write(data)
        await writer.drain()
