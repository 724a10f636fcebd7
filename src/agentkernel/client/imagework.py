"""Work on an image, from its beginning to its end, for who waits for it: the same with every kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from agentkernel.abc import Caller, Kernel
from agentkernel.channel.refusal import revive
from agentkernel.errors import AgentKernelError, NotFound, ProtocolViolation, Refused
from agentkernel.model.image import ImageProgress, ImageRecord, ImageWork, ImageWorkKind, PullPolicy
from agentkernel.model.request import SandboxRequest

Watch = Callable[[ImageProgress], None]
_TRIES = 5  # each time that a daemon ends meanwhile, its successor is asked to go on


async def worked(kernel: Kernel, caller: Caller, work: ImageWork, watch: Watch) -> ImageRecord:
    """Has it done and tells every step; returns the image. It goes on when this is cancelled.

    Raises:
        AgentKernelError: what it failed with, or what `image_begin` raises.
    """
    for _ in range(_TRIES):
        job_id = await kernel.image_begin(caller, work)
        if (last := await _last_step(kernel, caller, job_id, watch)) is not None:
            return _ended(last)
    raise ProtocolViolation("the work on the image was lost again and again", hint="see daemon.log")


async def fetched(
    kernel: Kernel, caller: Caller, request: SandboxRequest, watching: Callable[[str], AbstractContextManager[Watch]]
) -> SandboxRequest:
    """The request, once its image is here: who makes a sandbox of it waits for nothing that nobody sees.

    `watching` gets the image's name, where one is fetched. Where policy says no, nothing is fetched and nothing raised: whoever asks for
    the sandbox is told.
    """
    if request.image is not None and request.image.startswith("/"):
        return request
    try:
        grant = await kernel.grant(caller, request)
    except AgentKernelError:
        return request
    if not grant.fetches:
        return request
    root = grant.spec.root
    with watching(root.label) as watch:
        work = ImageWork(kind=ImageWorkKind.PULL, reference=root.reference, backend=grant.backend, policy=request.pull)
        try:
            await worked(kernel, caller, work, watch)
        except Refused:
            return request  # who may run commands and nothing else; it is fetched when the sandbox is made
    return replace(request, pull=PullPolicy.MISSING)


async def _last_step(kernel: Kernel, caller: Caller, job_id: str, watch: Watch) -> ImageProgress | None:
    """None: the daemon that did it is gone, and its successor knows nothing of it."""
    try:
        async for step in kernel.image_follow(caller, job_id, follow=True):
            watch(step)
            if step.is_last:
                return step
    except NotFound:
        pass
    return None


def _ended(step: ImageProgress) -> ImageRecord:
    if step.image is None:
        raise revive(step.error_code or "error", step.error, hint=step.hint)
    return step.image
