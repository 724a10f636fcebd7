"""`python -m agentkernel.egress --control-fd N`: the egress process. It serves one engine, over the inherited socket, and ends with it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

from agentkernel.egress.confine import confine
from agentkernel.egress.server import Server


def main(arguments: list[str]) -> None:
    """Does not return: threads may still wait for a name server."""
    if len(arguments) != 2 or arguments[0] != "--control-fd" or not arguments[1].isdigit():
        sys.exit("usage: python -m agentkernel.egress --control-fd N")
    os.environ["LOCALDOMAIN"] = ""  # resolv.conf(5): names are looked up as they are, not with the host's search domains after them
    control = socket.socket(fileno=int(arguments[1]))
    control.set_inheritable(False)
    confine(control.fileno())
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    asyncio.run(_serve(control))
    sys.stderr.flush()
    os._exit(0)


async def _serve(control: socket.socket) -> None:
    server = Server(control, asyncio.get_running_loop())
    await server.over


if __name__ == "__main__":
    main(sys.argv[1:])
