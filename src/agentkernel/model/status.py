"""What state a sandbox is in, and which states may follow. The table is the whole state machine."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Status(StrEnum):
    """As users read it."""

    CREATING = "creating"  # its intent is stored, nothing is acknowledged
    STOPPED = "stopped"  # files kept (there may be none yet), nothing runs
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    REMOVING = "removing"
    UNAVAILABLE = "unavailable"  # shown in place of the stored status while the sandbox's backend is not to be had; never stored


FOLLOWS: Mapping[Status, frozenset[Status]] = {
    Status.CREATING: frozenset({Status.STOPPED, Status.RUNNING, Status.REMOVING}),
    Status.STOPPED: frozenset({Status.STARTING, Status.REMOVING}),
    Status.STARTING: frozenset({Status.RUNNING, Status.STOPPED, Status.REMOVING}),
    Status.RUNNING: frozenset({Status.STOPPING, Status.STOPPED, Status.REMOVING}),  # straight to stopped: it died by itself
    Status.STOPPING: frozenset({Status.STOPPED, Status.REMOVING}),
    Status.REMOVING: frozenset(),  # then its row is deleted
}

# What a crash leaves in each state is brought to, by the next start (docs/life-cycle.md).
SETTLES_AS: Mapping[Status, Status] = {
    Status.CREATING: Status.REMOVING,  # never acknowledged
    Status.STOPPED: Status.STOPPED,
    Status.STARTING: Status.STOPPED,
    Status.RUNNING: Status.RUNNING,  # adopted; if it died meanwhile, stopped
    Status.STOPPING: Status.STOPPED,
    Status.REMOVING: Status.REMOVING,
}
