"""Where a user's daemon, store and logs are. On the command line's hot path: imports nothing but os.

AGENTKERNEL_HOME (an absolute path) puts all of it beneath one directory, which is how tests and second installations keep apart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

IMAGES = "images"  # agentkernel's own store of images, in the data directory
_MEMORY = "/dev/shm"  # noqa: S108 - whoever makes a directory in it checks that it is ours and closed to others


def runtime_directory(environment: Mapping[str, str], uid: int) -> str:
    """What does not outlive a boot: /run/agentkernel for root, else $XDG_RUNTIME_DIR/agentkernel or /tmp/agentkernel-<uid>."""
    own = environment.get("AGENTKERNEL_HOME", "")
    if own.startswith("/"):
        return own.rstrip("/") + "/run"
    if uid == 0:
        return "/run/agentkernel"
    given = environment.get("XDG_RUNTIME_DIR", "")
    if given.startswith("/") and len(given) <= 40:  # sun_path holds 107 bytes, the rest of the path needs 60
        return f"{given}/agentkernel"
    return f"/tmp/agentkernel-{uid}"  # noqa: S108 - whoever makes it checks that it is ours and closed to others


def state_directory(environment: Mapping[str, str], uid: int) -> str:
    """What is made for each sandbox and lives no longer than it: the runtime directory, or where that is a part of the root file system
    (in virtual machines and containers without a /run in memory) /dev/shm/agentkernel-<uid>: on a disk each small file costs 0.1 ms."""
    usual = runtime_directory(environment, uid)
    if environment.get("AGENTKERNEL_HOME", "").startswith("/"):
        return usual
    try:
        root = os.stat("/").st_dev
        is_on_disk = os.stat(os.path.dirname(usual)).st_dev == root
        if is_on_disk and os.stat(_MEMORY).st_dev != root and os.access(_MEMORY, os.W_OK | os.X_OK):
            return f"{_MEMORY}/agentkernel-{uid}"
    except OSError:
        pass  # one of them is not there
    return usual


def data_directory(environment: Mapping[str, str], uid: int) -> str:
    """What does: the store, logs, sandboxes' files. /var/lib/agentkernel for root, else $XDG_DATA_HOME/agentkernel."""
    own = environment.get("AGENTKERNEL_HOME", "")
    if own.startswith("/"):
        return own.rstrip("/") + "/data"
    if uid == 0:
        return "/var/lib/agentkernel"
    data = environment.get("XDG_DATA_HOME", "")
    return (data.rstrip("/") if data.startswith("/") else f"{environment.get('HOME') or '/'}/.local/share") + "/agentkernel"


def store_directory(environment: Mapping[str, str], uid: int) -> str:
    """The store's own, closed to others, which the one above it cannot be: sandboxes' ids walk through that to their files."""
    return data_directory(environment, uid) + "/store"


def socket_path(environment: Mapping[str, str]) -> str:
    """The daemon's socket: AGENTKERNEL_SOCKET, or `daemon.sock` in the runtime directory."""
    return environment.get("AGENTKERNEL_SOCKET") or runtime_directory(environment, os.geteuid()) + "/daemon.sock"
