"""Settings: one table (`table`), the files and variables they come from (`load`), and the request that they make (`request`).

The names below are loaded when they are first used: a run without configuration files needs no TOML.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkernel.config.document import parse as parse
    from agentkernel.config.loosening import loosenings as loosenings
    from agentkernel.config.trusted import TrustStore as TrustStore

_LATE = {"parse": "document", "loosenings": "loosening", "TrustStore": "trusted"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
