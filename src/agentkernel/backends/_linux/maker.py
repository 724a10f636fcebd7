"""What one technology adds to the sandboxes of this host: how one is built, and how one that runs is taken up."""

from __future__ import annotations

from typing import Protocol

from agentkernel.backends._configuration import Configuration
from agentkernel.backends._linux.holdings import Holdings
from agentkernel.backends._linux.host import Host
from agentkernel.backends._linux.state import SandboxState
from agentkernel.channel.sandbox import GuestSandbox
from agentkernel.model.spec import SandboxSpec


class Maker(Protocol):
    """Records each thing, or has it follow from the id, before it makes it: a crash may come between any two system calls."""

    host: Host

    async def build(self, spec: SandboxSpec, holdings: Holdings, state: SandboxState) -> GuestSandbox:
        """Builds and starts the sandbox that `state` was made for; whatever was made until it fails is in `holdings`.

        Raises:
            LaunchFailed, SandboxFailed, Unsupported, OSError: the caller releases what there is.
        """
        ...

    async def attach(self, spec: SandboxSpec, holdings: Holdings, configuration: Configuration) -> GuestSandbox:
        """Takes up one whose first process lives; raises SandboxLost where it has died meanwhile."""
        ...
