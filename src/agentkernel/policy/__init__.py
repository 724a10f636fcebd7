"""Pure decisions: what a request, a profile and this host's abilities add up to. No I/O.

The name below is loaded when it is first used: a request without published ports needs no parsing of addresses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkernel.model.ports import checked_port as checked_port

_LATE = {"checked_port": "agentkernel.model.ports"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
