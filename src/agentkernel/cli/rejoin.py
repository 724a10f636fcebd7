"""What the hot path does when the daemon goes away under a command: it goes on with the next one, at the offsets that it has reached."""

from __future__ import annotations

import os
import posix
import time

from agentkernel.cli import hot
from agentkernel.cli.relay import RESUME, START, Relay
from agentkernel.config import daemon_process
from agentkernel.errors import DaemonUnavailable

_ATTEMPTS = 20  # daemons in a row that die young
_YOUNG_S = 2.0


def rejoin(relay: Relay) -> None:
    """Gives the relay a connection to the next daemon, which is started where none is; raises ConnectionError when there is none."""
    now = time.monotonic()
    relay.losses = relay.losses + 1 if now - relay.joined_at < _YOUNG_S else 0
    relay.joined_at = now
    if relay.losses > _ATTEMPTS:
        raise ConnectionError("the daemon keeps dying; whether the command ended is unknown")
    relay.link.connection.close()
    connection = hot.connect(hot.socket_path(posix.environ))
    if connection is None:
        try:
            daemon_process.spawn(os.environ)
        except DaemonUnavailable as error:
            raise ConnectionError(f"the daemon is gone, and {error.message}; whether the command ended is unknown") from error
        connection = hot.connect(hot.socket_path(posix.environ))
    if connection is None:
        raise ConnectionError(f"the daemon is gone: {daemon_process.last_words(os.environ)}; whether the command ended is unknown")
    if not relay.started:
        relay.link.reopen(connection, START, relay.start)  # the same id again: it never runs twice
        return
    inner = relay.offsets[1].to_bytes(8, "little") + relay.offsets[2].to_bytes(8, "little")
    relay.link.reopen(connection, RESUME, relay.addressed(inner))
