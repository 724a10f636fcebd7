"""This process's own console: what its words mean where they were typed."""

from __future__ import annotations

import os

from agentkernel.cli.context import Context
from agentkernel.cli.streams import has_input
from agentkernel.cli.terminal import terminal_size
from agentkernel.config.console import Console


def console_of(context: Context) -> Console:
    """The directory, environment and descriptors of this process; raises InvalidInput when the directory has been removed."""
    return Console(
        cwd=context.cwd(),
        environment=context.environment,
        terminals=(os.isatty(0), os.isatty(1), os.isatty(2)),
        has_input=has_input(0),
        size=terminal_size(),
    )
