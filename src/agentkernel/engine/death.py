"""Whether a sandbox lives: its agent is asked."""

from __future__ import annotations

import asyncio
from typing import Final

from agentkernel.abc import Sandbox
from agentkernel.errors import ProtocolViolation, SandboxFailed, SandboxLost

ALIVE_S: Final = 5.0  # within which a living sandbox's agent answers


async def death_of(sandbox: Sandbox) -> str:
    """Why it has died, or cannot be spoken to any more; empty: it lives, or who knows.

    Raises AgentKernelError where only its backend knows, and does not answer.
    """
    try:
        async with asyncio.timeout(ALIVE_S):
            await sandbox.processes()
    except SandboxLost as error:
        return error.message
    except ProtocolViolation as error:
        return f"its agent cannot be spoken to: {error.message}"
    except (OSError, SandboxFailed):
        return ""  # it is slow, or the host is, or has no descriptor left: nobody is told that it died
    return ""
