"""From a name to the sandbox that frames are passed on to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from agentkernel.abc import Caller, Host, Sandbox
from agentkernel.channel.door import SANDBOX, Fields
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import Failure, Start
from agentkernel.channel.relay import Client, Relay
from agentkernel.errors import InvalidInput, NotFound, Refused, Unsupported
from agentkernel.model.command import Command


@runtime_checkable
class Relaying(Protocol):
    """A sandbox with an agent, whose frames can be passed on; `channel.sandbox.GuestSandbox` is one."""

    def relay(self, exec_id: int, start: Start, client: Client, opening: Callable[[int], bytes]) -> Relay:
        """Starts a command for a client, under the client's id."""
        ...

    async def resume(self, exec_id: int, offsets: tuple[int, int], client: Client) -> Relay:
        """Takes a command up for a client; raises NotFound."""
        ...

    async def ask(self, kind: FrameType, payload: bytes = b"") -> bytes | Failure:
        """Passes a request on."""
        ...

    def start_of(self, command: Command) -> Start:
        """What starts a command there."""
        ...


def relaying(sandbox: Sandbox) -> Relaying:
    """What stands behind the engine's handle; raises Unsupported for a sandbox without an agent."""
    inner = getattr(sandbox, "inner", sandbox)
    if not isinstance(inner, Relaying):
        raise Unsupported(f"backend {sandbox.backend!r} has no agent that frames could be passed on to")
    return inner


def name_of(fields: Fields) -> str:
    """SANDBOX; raises InvalidInput for a text that no name can be."""
    try:
        return fields[SANDBOX][0].decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("a sandbox's name is UTF-8") from error


async def sandbox_of(host: Host, caller: Caller, fields: Fields, exec_id: int, *, is_anothers: bool = False) -> tuple[Sandbox, bool]:
    """The sandbox that a command which runs already is in, and whether it was made for that command alone, and goes with the caller.

    One that was made for the command of another caller's is reached by its name only, and never goes with this one.

    Raises:
        NotFound: there is none.
        Refused: the caller's scopes allow neither.
    """
    try:
        if is_anothers:
            raise NotFound(f"the caller has no command {exec_id:016x}", hint="a sandbox that it may use is reached by its name")
        return await host.ephemeral_of(caller, exec_id), True
    except (NotFound, Refused):  # whose scopes are those of one sandbox has no business with others', but with that one
        if SANDBOX not in fields:
            raise
    return await host.open(caller, name_of(fields)), False
