"""Pure decisions: what a request, a profile and this host's abilities add up to. No I/O.

The names below are loaded when they are first used: a request of this machine, without published ports and secrets, needs no parsing of
addresses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkernel.model.ports import checked_port as checked_port
    from agentkernel.policy.addresses import opened_range as opened_range
    from agentkernel.policy.secrets import placed as placed
    from agentkernel.policy.secrets import reached as reached

_LATE = {
    "checked_port": "agentkernel.model.ports",
    "opened_range": "agentkernel.policy.addresses",
    "placed": "agentkernel.policy.secrets",
    "reached": "agentkernel.policy.secrets",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
