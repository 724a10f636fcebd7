"""What is asked and answered: each module has a `router`."""

from __future__ import annotations

from agentkernel.api import convertors as convertors  # which routes are written with
