"""The size of the user's terminal."""

from __future__ import annotations

import os

from agentkernel.config.console import UNKNOWN_SIZE
from agentkernel.model.command import TerminalSize


def terminal_size() -> TerminalSize:
    """The size of the terminal at stdout, stdin or stderr, in that order; 24 by 80 when there is none."""
    for descriptor in (1, 0, 2):
        try:
            columns, rows = os.get_terminal_size(descriptor)
        except OSError:
            continue
        if rows and columns:
            return TerminalSize(rows=rows, columns=columns)
    return UNKNOWN_SIZE
