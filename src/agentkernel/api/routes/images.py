"""/images: what sandboxes are made of. Work on an image goes on when its client has gone."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from agentkernel.api.attended import attended
from agentkernel.api.doors import Asked, Door
from agentkernel.api.envelope import answer
from agentkernel.api.shapes import PruneBody, PullBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_server import Image, ImageJob
from agentkernel.errors import NotFound
from agentkernel.model.image import ImageProgress, ImageStage, ImageWork, ImageWorkKind
from agentkernel.text.records import image_record

router = APIRouter(prefix="/images", tags=["images"])

Keeper = Annotated[str, Query(description="The engine that keeps it: docker, podman; without it agentkernel's own store.")]
BEGUN: Final = ImageProgress(stage=ImageStage.RESOLVING)


@router.get("", operation_id="image_list", responses=said(list[Image]))
async def image_list(door: Asked, backend: Annotated[str, Query(description="Only what this one keeps.")] = "") -> Response:
    """The images that are here: agentkernel's own, and those of every engine that is ready."""
    return answer([image_record(record) for record in await door.kernel.images(door.caller, backend)])


@router.post("/pull", operation_id="image_pull", responses=said(ImageJob))
async def image_pull(body: PullBody, request: Request, door: Asked) -> Response:
    """Fetches an image by its name; where that fails, the answer says so in `stage` and `error`."""
    work = ImageWork(kind=ImageWorkKind.PULL, reference=body.image, backend=body.backend, platform=body.platform)
    job_id = await door.kernel.image_begin(door.caller, work)
    return await attended(request, _stands(door, job_id, follow=body.wait))


@router.get("/jobs/{job_id}", operation_id="image_job", responses=said(ImageJob))
async def image_job(
    job_id: str, request: Request, door: Asked, wait: Annotated[bool, Query(description="Until it has ended.")] = False
) -> Response:
    """Where work on an image stands."""
    return await attended(request, _stands(door, job_id, follow=wait))


@router.post("/prune", operation_id="image_prune", responses=said(list[str]))
async def image_prune(door: Asked, body: PruneBody | None = None) -> Response:
    """Removes what no sandbox uses and nobody has used for long; one line for each thing."""
    wanted = body or PruneBody()
    return answer(list(await door.kernel.image_prune(door.caller, wanted.unused_for_s, wanted.backend)))


@router.delete("/{reference:rest}", operation_id="image_remove", responses=said(str))
async def image_remove(reference: str, door: Asked, backend: Keeper = "") -> Response:
    """Forgets an image; 409 while a sandbox uses it."""
    await door.kernel.image_remove(door.caller, reference, backend)
    return answer("Image removed")


async def _stands(door: Door, job_id: str, *, follow: bool) -> Response:
    """The last step of the work so far, or of all of it."""
    last = BEGUN
    async for step in door.kernel.image_follow(door.caller, job_id, follow=follow):
        last = step
        if step.is_last:
            break
    if follow and not last.is_last:
        raise NotFound("the work on the image was lost with its engine", hint="begin it again: it goes on where it was")
    return answer(_job(job_id, last))


def _job(job_id: str, step: ImageProgress) -> dict[str, Any]:
    return {
        "id": job_id,
        "stage": step.stage.value,
        "item": step.item,
        "done_bytes": step.done_bytes,
        "total_bytes": step.total_bytes,
        "image": None if step.image is None else image_record(step.image),
        "error": step.error,
        "code": step.error_code,
        "hint": step.hint,
    }
