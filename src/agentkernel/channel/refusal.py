"""An error on its way through the daemon's door: FAILED with stage 255, whose text is JSON. Pure."""

from __future__ import annotations

import errno
import json
import struct
from typing import Any, Final

from agentkernel.errors import AgentKernelError, FileOperationFailed, ProtocolViolation

REFUSED: Final = 255  # the stage
_FAILED: Final = struct.Struct("<II")
_LONGEST: Final = 8192  # letters of a message or hint: six bytes each at worst, and a frame holds both


def encode_refusal(error: AgentKernelError) -> bytes:
    """The payload of FAILED."""
    text: dict[str, Any] = {
        "code": error.code,
        "message": error.message[:_LONGEST],
        "hint": error.hint[:_LONGEST],
        "exit_status": error.exit_status,
    }
    if isinstance(error, FileOperationFailed):
        text["errno"] = error.errno
    return _FAILED.pack(errno.EIO, REFUSED) + json.dumps(text).encode()


def is_refusal(payload: bytes | memoryview) -> bool:
    """Whether a FAILED is an error of this package rather than the agent's."""
    return len(payload) >= _FAILED.size and _FAILED.unpack_from(payload)[1] == REFUSED


def decode_refusal(payload: bytes | memoryview) -> AgentKernelError:
    """The error that was sent, of the class that its code names; one of a later version is an AgentKernelError with that code."""
    try:
        text = json.loads(bytes(payload[_FAILED.size :]))
        code, message, hint, status = str(text["code"]), str(text["message"]), str(text.get("hint", "")), int(text["exit_status"])
        number = int(text.get("errno", 0))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolViolation(f"malformed FAILED: {error}") from error
    return revive(code, message, hint=hint, exit_status=status, number=number)


def revive(code: str, message: str, *, hint: str = "", exit_status: int = 125, number: int = 0) -> AgentKernelError:
    """Makes an error from its parts."""
    kind = _classes().get(code, AgentKernelError)
    error = kind.__new__(kind, message)
    AgentKernelError.__init__(error, message, hint=hint)
    if kind.code != code:
        error.code = code
    if kind.exit_status != exit_status:
        error.exit_status = exit_status
    if isinstance(error, FileOperationFailed):
        error.errno = number
    return error


def _classes() -> dict[str, type[AgentKernelError]]:
    found: dict[str, type[AgentKernelError]] = {}
    wave: list[type[AgentKernelError]] = [AgentKernelError]
    while wave:
        kind = wave.pop()
        found.setdefault(kind.code, kind)
        wave += kind.__subclasses__()
    return found
