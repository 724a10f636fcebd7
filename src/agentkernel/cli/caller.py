"""Who the command line speaks for."""

from __future__ import annotations

import os

from agentkernel.abc import Caller
from agentkernel.config.principal import principal_of


def local_caller() -> Caller:
    """The user who runs this process."""
    return Caller(principal=principal_of(os.getuid()))
