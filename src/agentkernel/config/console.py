"""Where a command line was typed: what the words alone do not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentkernel.model.command import TerminalSize

UNKNOWN_SIZE = TerminalSize(rows=24, columns=80)  # of no terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """The caller's directory, environment and descriptors 0 to 2."""

    cwd: str
    environment: Mapping[str, str]
    whole: bool = True  # whether that is the whole environment; the hot path sends some of it
    terminals: tuple[bool, bool, bool] = (False, False, False)
    has_input: bool = False  # whether there is any sense in forwarding descriptor 0
    size: TerminalSize = UNKNOWN_SIZE
