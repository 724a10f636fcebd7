"""SIGNAL, LIST and STATS: passed on to the agent of the sandbox that they name."""

from __future__ import annotations

from agentkernel.abc import Caller, Host
from agentkernel.channel import door
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import SIGNAL, Failure, encode_failed
from agentkernel.daemon.reaching import name_of, relaying, sandbox_of
from agentkernel.errors import InvalidInput


async def answer_about_sandbox(host: Host, caller: Caller, kind: int, ident: int, payload: bytes) -> tuple[int, int, bytes]:
    """Type, id and payload of the answer; raises what the engine raises, and InvalidInput, ProtocolViolation for a malformed request."""
    fields = door.decode_request(payload)
    if kind == FrameType.SIGNAL:
        inner = fields.get(door.INNER, [b""])[0]
        if len(inner) != SIGNAL.size:
            raise InvalidInput("malformed SIGNAL")
        sandbox, _ = await sandbox_of(host, caller, fields, SIGNAL.unpack(inner)[0])
        answer = await relaying(sandbox).ask(FrameType.SIGNAL, inner)
    else:
        if door.SANDBOX not in fields:
            raise InvalidInput(f"{FrameType(kind).name} of which sandbox?")
        sandbox = await host.open(caller, name_of(fields))
        answer = await relaying(sandbox).ask(FrameType(kind))
    if isinstance(answer, Failure):
        return FrameType.FAILED, ident, encode_failed(answer)
    return FrameType.REPLY, ident, answer
