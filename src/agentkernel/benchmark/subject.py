"""What is measured: sandboxes of one backend, asked for in one way."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from agentkernel.abc import Caller, Kernel, Sandbox
from agentkernel.errors import SandboxFailed
from agentkernel.model.command import Command
from agentkernel.model.request import Grant, SandboxRequest

GREETING = ("echo", "hello")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A door, who stands at it, and what is asked for; the request names the backend."""

    kernel: Kernel
    caller: Caller
    request: SandboxRequest

    def sandbox(self) -> AbstractAsyncContextManager[tuple[Sandbox, Grant]]:
        """A sandbox for the block."""
        return self.kernel.sandbox(self.caller, self.request)


async def succeed(sandbox: Sandbox, *words: str, stdin: bytes = b"", timeout_s: float | None = None) -> bytes:
    """What a command prints that must succeed; raises SandboxFailed where it does not, and what `exec` raises."""
    command = Command(argv=tuple(os.fsencode(word) for word in words), timeout_s=timeout_s)
    result = await sandbox.exec(command, stdin=stdin)
    if result.exit_code != 0:
        said = result.stderr[-200:].decode(errors="replace").strip()
        raise SandboxFailed(f"{words[0]!r} ended with {result.exit_code} in a sandbox of {sandbox.backend}: {said or 'it said nothing'}")
    return result.stdout


async def greet(sandbox: Sandbox) -> None:
    """The command that is timed: `echo hello`, whose answer is looked at."""
    said = await succeed(sandbox, *GREETING)
    if said != b"hello\n":
        raise SandboxFailed(f"'echo hello' said {said[:50]!r} in a sandbox of {sandbox.backend}")
