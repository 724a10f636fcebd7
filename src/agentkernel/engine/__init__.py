"""The engine: implements `abc.Kernel` in process and `abc.Host` over a durable store. It decides nothing (that is policy) and isolates
nothing (that is a backend).

The names below are loaded when they are first used: most runs need no image unpacked, and only
engines that serve others have pools and a store that lasts, and few sandboxes have ports or other rules than at their start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkernel.engine.connections import Connections as Connections
    from agentkernel.engine.imagedoor import ImageDoor as ImageDoor
    from agentkernel.engine.imagekeepers import Choice as Choice
    from agentkernel.engine.imagekeepers import ImageKeepers as ImageKeepers
    from agentkernel.engine.images import TarImages as TarImages
    from agentkernel.engine.journal import Taker as Taker
    from agentkernel.engine.logs import Logs as Logs
    from agentkernel.engine.pool import Pools as Pools
    from agentkernel.engine.ports import Ports as Ports
    from agentkernel.engine.secrets import Secrets as Secrets
    from agentkernel.engine.unpacking import Unpacking as Unpacking
    from agentkernel.engine.upkeep import Upkeep as Upkeep
    from agentkernel.engine.visits import Visits as Visits

_MODULES = {
    "Choice": "imagekeepers",
    "Connections": "connections",
    "ImageDoor": "imagedoor",
    "ImageKeepers": "imagekeepers",
    "Logs": "logs",
    "Pools": "pool",
    "Ports": "ports",
    "Secrets": "secrets",
    "Taker": "journal",
    "TarImages": "images",
    "Unpacking": "unpacking",
    "Upkeep": "upkeep",
    "Visits": "visits",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
