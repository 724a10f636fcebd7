"""The kernel behind the daemon's socket, and copying of trees between host and sandbox. Blind to the engine.

The names below are loaded when they are first used: a daemon on this machine needs no way to another one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkernel.client.reaching import reach as reach
    from agentkernel.client.reaching import unanswered as unanswered
    from agentkernel.client.reaching import without_surroundings as without_surroundings
    from agentkernel.client.tunnel import open_tunnel as open_tunnel

_LATE = {
    "open_tunnel": "agentkernel.client.tunnel",
    "reach": "agentkernel.client.reaching",
    "unanswered": "agentkernel.client.reaching",
    "without_surroundings": "agentkernel.client.reaching",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
