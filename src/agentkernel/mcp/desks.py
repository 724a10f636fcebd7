"""Each token's own server, with its desk and its sessions: whoever takes the token away ends what is under way for it, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings

from agentkernel.abc import Caller, Kernel
from agentkernel.config.removal import Running, removed
from agentkernel.config.tokens import Token, TokenStore
from agentkernel.mcp.desk import Desk, Operator
from agentkernel.mcp.server import build

MAX_BODY: Final = 32 * 1024 * 1024
MAX_SESSIONS: Final = 64  # of one token
SESSION_IDLE_S: Final = 600.0  # without a request or a stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Lending:
    """What desks are made of. `doors` makes the kernel of a caller, once for each; `is_shared`: all have one, the server's."""

    tokens: TokenStore
    doors: Callable[[Caller], Kernel]
    principal: str
    operator: Operator
    security: TransportSecuritySettings
    is_shared: bool = False


class Place:
    """One token's desk, and the sessions at it, which end with the place. What the model may name of this host is nothing, so its caller is
    none from elsewhere (`Caller.remote`)."""

    def __init__(self, lending: Lending, token: Token) -> None:
        caller = Caller(principal=lending.principal, scopes=token.scopes, via=token.name)
        self.desk = Desk(kernel=lending.doors(caller), caller=caller, operator=lending.operator)
        self.sessions = StreamableHTTPSessionManager(
            build(lambda: self.desk),
            security_settings=lending.security,
            session_idle_timeout=SESSION_IDLE_S,
            max_request_body_size=MAX_BODY,
            max_sessions=MAX_SESSIONS,
        )
        self._ready, self._over = asyncio.Event(), asyncio.Event()
        self._serving = asyncio.create_task(self._serve(), name="sessions of a token")

    async def ready(self) -> None:
        """Returns when sessions can begin."""
        await self._ready.wait()

    async def _serve(self) -> None:
        try:
            async with self.sessions.run():
                self._ready.set()
                await self._over.wait()
        finally:
            self._ready.set()  # where they could not begin, who asks is told so

    async def close(self) -> None:
        """Ends its sessions with what they have under way, and then removes the temporary sandboxes."""
        self._over.set()
        await asyncio.wait([self._serving])
        await self.desk.clear()


class Desks:
    """The places of all tokens that were used. Belongs to one event loop."""

    def __init__(self, lending: Lending) -> None:
        self._lending = lending
        self._places: dict[Token, Place] = {}
        self._kernels: dict[int, Kernel] = {}  # to be closed
        self.running = Running()  # requests, by token

    async def of(self, token: Token) -> Place:
        """The token's place."""
        if token not in self._places:
            place = self._places[token] = Place(self._lending, token)
            self._kernels[id(place.desk.kernel)] = place.desk.kernel
        place = self._places[token]
        await place.ready()
        return place

    async def end_removed(self) -> None:
        """Ends what the tokens that were removed since the last time have under way."""
        gone = removed(self._lending.tokens, self._places)
        for token in gone:
            self.running.end(token)
        await asyncio.gather(*(self._places[token].close() for token in gone))
        for token in gone:
            place = self._places.pop(token)
            if not self._lending.is_shared:
                await self._kernels.pop(id(place.desk.kernel)).close()

    async def close(self) -> None:
        """Removes temporary sandboxes and closes every kernel."""
        await asyncio.gather(*(place.close() for place in self._places.values()))
        for kernel in self._kernels.values():
            await kernel.close()
        self._kernels.clear()
        self._places.clear()
