"""The engine: implements `abc.Kernel` in process. It decides nothing (that is policy) and isolates nothing (that is a backend).

The name below is loaded when it is first used: most runs need no image unpacked.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkernel.engine.images import TarImages as TarImages


def __getattr__(name: str) -> Any:
    if name != "TarImages":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("agentkernel.engine.images").TarImages
