"""A connection to the server's end of HTTP alone: an application of the test's own behind it, and both ends in one loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from agentkernel.api.limits import Limits
from agentkernel.api.protocol import guarded
from agentkernel.api.websocket import guarded_websocket


@asynccontextmanager
async def client_of(app: Any, bounds: Limits) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, dict[str, Any]]]:
    """The client's end, and the state that the application sees; what is left at the end is awaited."""
    loop = asyncio.get_running_loop()
    protocol = guarded(bounds, local=False)
    config = Config(
        app,
        http=protocol,
        ws=guarded_websocket(bounds),
        ws_max_size=bounds.message_bytes,
        ws_ping_interval=None,
        log_config=None,
        lifespan="off",
    )
    config.load()
    state: dict[str, Any] = {"begun": asyncio.Event()}
    server = ServerState()
    theirs, ours = socket.socketpair()
    transport, _ = await loop.connect_accepted_socket(lambda: protocol(config, server, state, loop), theirs)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        yield reader, writer, state
    finally:
        writer.close()
        transport.abort()
        while server.tasks:
            await asyncio.wait(server.tasks)
