"""An image by name is fetched before the sandbox is asked for, where the client sees how far that is."""

from __future__ import annotations

from dataclasses import replace

from agentkernel.errors import AgentKernelError
from agentkernel.mcp.desk import Desk, Tell
from agentkernel.model.image import ImageProgress, ImageStage, ImageWork, ImageWorkKind, PullPolicy
from agentkernel.model.request import SandboxRequest


async def fetched(desk: Desk, request: SandboxRequest, tell: Tell) -> SandboxRequest:
    """The request, once its image is here. Where policy says no, or the image cannot be had, nothing is raised: whoever asks for the
    sandbox is told."""
    if request.image is None or request.image.startswith("/"):
        return request
    try:
        grant = await desk.kernel.grant(desk.caller, request)
        if not grant.fetches:
            return request
        root = grant.spec.root
        work = ImageWork(kind=ImageWorkKind.PULL, reference=root.reference, backend=grant.backend, policy=request.pull)
        job_id = await desk.kernel.image_begin(desk.caller, work)
        last = None
        async for step in desk.kernel.image_follow(desk.caller, job_id, follow=True):
            if (line := _line(root.label, step)) != last:
                last = line
                await tell(line)
            if step.stage is ImageStage.DONE:
                return replace(request, pull=PullPolicy.MISSING)
    except AgentKernelError:
        pass
    return request


def _line(label: str, step: ImageProgress) -> str:
    share = f" {100 * step.done_bytes // step.total_bytes} %" if step.total_bytes else ""
    return f"the image {label}: {step.stage.value}{share}"
