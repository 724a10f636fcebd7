"""The command line. `main` is the process, `verbs` the lazy table of verbs; everything else is shared by verbs.

What is imported decides how fast a verb starts, so each verb's module is imported only when it is used, and the name below likewise.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkernel.cli.rawterminal import RawTerminal as RawTerminal


def __getattr__(name: str) -> Any:
    if name != "RawTerminal":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("agentkernel.cli.rawterminal").RawTerminal
