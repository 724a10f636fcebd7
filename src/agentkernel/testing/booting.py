"""A process that boots a sandbox and is then killed by the suite.

`python -m agentkernel.testing.booting`, with a pickled `Booting` as input, starts the command, writes its exec id as one line, and waits.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from agentkernel.abc import Backend
from agentkernel.model.command import Command
from agentkernel.model.spec import SandboxSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Booting:
    """What to boot, by which backend, and what to run in it."""

    backend: tuple[Callable[..., Backend], tuple[object, ...]]
    sandbox_id: str
    spec: SandboxSpec
    owner: str
    command: Command


async def _boot(wanted: Booting) -> None:
    make, arguments = wanted.backend
    sandbox = await make(*arguments).boot(wanted.sandbox_id, wanted.spec, wanted.owner)
    process = await sandbox.start(wanted.command)
    sys.stdout.write(f"{process.exec_id}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    threading.Thread(target=asyncio.run, args=(_boot(pickle.load(sys.stdin.buffer)),), daemon=True).start()  # noqa: S301 - the suite's own
    sys.stdin.buffer.read()  # ends with the suite, should that not kill it
