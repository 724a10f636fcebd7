"""An engine in a process of its own that fails at the Nth thing that it asks of the system, while it does one act on a booted sandbox.

Python's audit events (sys.addaudithook) are those things: a file opened, a directory made, a program started. `kill` ends the process just
before the Nth, `error:ENOSPC` makes it fail with that errno. Prints how many there were, when the act came to its end.
"""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentkernel.abc import Backend
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import Command
from agentkernel.model.spec import SandboxSpec

WATCHED = ("open", "os.", "socket.", "fcntl.", "subprocess.")
ACTS = ("boot", "boot-again", "boot-over-rest", "stop", "discard", "discard-stopped", "recover", "recover-dead", "sweep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to do, and where to fail (0: nowhere)."""

    make: Callable[[Path], Backend]
    state: Path
    lasting: Path  # where booted sandboxes are recorded
    act: str
    sandbox_id: str
    owner: str
    spec: SandboxSpec
    nth: int
    failure: str


class Saboteur:
    """Counts once it is armed."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.armed = False
        self.count = 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.armed or not event.startswith(WATCHED):
            return
        self.count += 1
        if self.count != self.order.nth:
            return
        kind, _, name = self.order.failure.partition(":")
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(getattr(errno, name), f"injected at {event} {arguments!r:.200}")


async def act(order: Order, saboteur: Saboteur) -> None:
    backend = order.make(order.state)
    boot = (order.sandbox_id, order.spec, order.owner)
    if order.act == "boot":
        saboteur.armed = True
        await backend.boot(*boot)
        return
    sandbox = await backend.boot(*boot)
    await sandbox.exec(Command(argv=(b"sh", b"-c", b"echo kept > kept; echo gone > /tmp/gone; chmod 700 .")))
    again = order.make(order.state)  # knows nothing yet
    if order.act in ("boot-again", "discard-stopped"):
        await sandbox.stop()
    elif order.act != "stop":
        await sandbox.close()
    if order.act in ("boot-over-rest", "recover-dead"):
        pid = int((order.lasting / order.sandbox_id / "pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    saboteur.armed = True
    if order.act.startswith("boot"):
        await again.boot(*boot)
    elif order.act == "stop":
        await sandbox.stop()
    elif order.act.startswith("discard"):
        await again.discard(order.sandbox_id, order.owner)
    elif order.act.startswith("recover"):
        await again.recover(*boot)
    else:
        await again.sweep_owned(order.owner, ())


def main() -> None:
    order: Order = pickle.load(sys.stdin.buffer)
    saboteur = Saboteur(order)
    sys.addaudithook(saboteur)
    said = "done"
    try:
        asyncio.run(act(order, saboteur))
    except (AgentKernelError, OSError) as error:
        said = f"failed {error!r}"
    finally:
        saboteur.armed = False
    print(saboteur.count, said)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
