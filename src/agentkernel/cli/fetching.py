"""The image of a sandbox is fetched before the sandbox is asked for, where its user sees how far that is."""

from __future__ import annotations

from collections.abc import Mapping

from agentkernel.abc import Caller, Kernel
from agentkernel.cli.place import Fetch
from agentkernel.cli.progress import Progress
from agentkernel.client.imagework import fetched
from agentkernel.model.request import SandboxRequest


def fetching(environment: Mapping[str, str], *, quietly: bool) -> Fetch:
    """Shows it on stderr, unless `quietly`."""

    async def fetch(kernel: Kernel, caller: Caller, request: SandboxRequest) -> SandboxRequest:
        return await fetched(kernel, caller, request, lambda name: Progress(f"fetching the image {name}", environment, quietly=quietly))

    return fetch
