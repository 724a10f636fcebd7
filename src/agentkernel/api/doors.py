"""The kernel of each caller, and how a route gets its own.

@router.get("/sandboxes/{name}")
async def sandbox_info(name: str, door: Asked) -> Response:
    return answer(described(await door.kernel.info(door.caller, name)))
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from agentkernel.abc import Caller, Kernel
from agentkernel.api.handles import Handles
from agentkernel.api.parts import Parts
from agentkernel.api.seats import Seats
from agentkernel.errors import Refused

STATE = "agentkernel.door"


@dataclass(frozen=True, slots=True)
class Door:
    """Who asks, and the kernel that answers it: pass `caller` to every method.

    `handles`: the caller's sandboxes that are open; `seats`: what another connection to the daemon needs one of.
    """

    kernel: Kernel
    caller: Caller
    handles: Handles
    seats: Seats


async def door(connection: HTTPConnection) -> Door:
    """The door of this request or WebSocket, which the gate has put there."""
    found: Door = connection.scope[STATE]
    return found


async def parts(connection: HTTPConnection) -> Parts:
    """What the application is built of."""
    found: Parts = connection.app.state.parts
    return found


def about_host(caller: Caller, what: str) -> None:
    """Raises Refused for a caller that is to know no more than sandboxes that are named to it: the rest concerns others too."""
    if caller.scopes and all(scope.startswith("sandbox:") or scope == "host" for scope in caller.scopes):
        raise Refused(f"a token for single sandboxes may not do this: {what}", hint=f"its scopes: {', '.join(sorted(caller.scopes))}")


Asked = Annotated[Door, Depends(door)]
Built = Annotated[Parts, Depends(parts)]


class Doors:
    """One kernel for each caller, made when it first asks. Belongs to one event loop.

    Args:
        seats: how many connections to the daemon all callers together may have beside their kernels' own.
        is_shared: all callers have one kernel, an engine in this process, which goes with the server and with no caller.
    """

    def __init__(self, make: Callable[[Caller], Kernel], seats: int, *, is_shared: bool = False) -> None:
        self._make = make
        self._seats = Seats(seats)
        self._is_shared = is_shared
        self._doors: dict[Caller, Door] = {}
        self._kernels: dict[int, Kernel] = {}  # to be closed

    def of(self, caller: Caller) -> Door:
        """The caller's door."""
        found = self._doors.get(caller)
        if found is None:
            kernel = self._make(caller)
            self._kernels[id(kernel)] = kernel
            found = self._doors[caller] = Door(kernel, caller, Handles(kernel, caller, self._seats), self._seats)
        return found

    async def drop(self, caller: Caller) -> None:
        """Closes the kernel of a caller that will not ask again, unless it is everybody's."""
        gone = self._doors.pop(caller, None)
        if gone is None:
            return
        await gone.handles.close()
        if not self._is_shared:
            await self._kernels.pop(id(gone.kernel)).close()

    async def close(self) -> None:
        """Closes every kernel; sandboxes and background commands live on where there is a daemon."""
        await asyncio.gather(*(each.handles.close() for each in self._doors.values()))
        kernels = list(self._kernels.values())
        self._doors.clear()
        self._kernels.clear()
        await asyncio.gather(*(kernel.close() for kernel in kernels))
