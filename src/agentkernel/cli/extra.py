"""What only those have who asked for it when they installed: modules that need an extra of the package."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from agentkernel.errors import Unsupported


def load(module: str, extra: str) -> Any:
    """Imports a module of agentkernel that needs the packages of an extra; raises Unsupported, with what adds them, when one is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("agentkernel"):
            raise
        raise Unsupported(f"this needs the package {error.name}", hint=f"pip install 'agentkernel[{extra}]'") from None
