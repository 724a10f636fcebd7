"""/sandboxes: making, finding and ending them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from agentkernel.api.doors import Asked, Built, Door
from agentkernel.api.envelope import answer
from agentkernel.api.idempotency import Replayed, key_of
from agentkernel.api.shapes import CreateBody, ExtendBody, PatchBody, StartBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_sandboxes import CreatedSandbox, DescribedSandbox, Sandbox
from agentkernel.api.wishes import create_of, request_key_of, secret_values_of
from agentkernel.config.options import labels_of, seconds
from agentkernel.errors import InvalidInput
from agentkernel.model.record import Labels, SandboxFilter, SandboxInfo
from agentkernel.model.spec import NetworkMode
from agentkernel.model.status import Status
from agentkernel.text.records import notice_record, rules_record, sandbox_record

router = APIRouter(prefix="/sandboxes", tags=["sandboxes"])

CREATED: Final = 201
MIB: Final = 2**20
CURSOR: Final = "x-next-after"
StatusWord = Literal["creating", "stopped", "starting", "running", "stopping", "removing", "unavailable"]


@router.get("", operation_id="sandbox_list", responses=said(list[Sandbox]))
async def sandbox_list(
    door: Asked,
    label: Annotated[list[str], Query(default_factory=list, description="KEY:VALUE or KEY=VALUE; only those that have all of them.")],
    status: Annotated[list[StatusWord], Query(default_factory=list, description="Only those in one of these.")],
    backend: Annotated[str, Query(description="Only of this one.")] = "",
    ephemeral: Annotated[bool, Query(description="Also those of `run`.")] = False,
    after: Annotated[str, Query(description="The cursor of the page before.", max_length=64)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Lists sandboxes by id, page by page: the header `X-Next-After` is the cursor of the next page, where there may be one."""
    wanted = SandboxFilter(
        labels=_labels(label),
        statuses=tuple(Status(word) for word in status),
        backend=backend,
        ephemeral=ephemeral,
        after=after,
        limit=limit,
    )
    page = await door.kernel.sandboxes(door.caller, wanted)
    headers = {CURSOR: page[-1].sandbox_id} if len(page) == limit else None
    return answer([sandbox_record(info) for info in page], headers=headers)


@router.post("", operation_id="sandbox_create", status_code=CREATED, responses=said(CreatedSandbox, CREATED))
async def sandbox_create(body: CreateBody, request: Request, door: Asked, parts: Built, replays: Replayed) -> Response:
    """Makes a sandbox that lasts, running unless `start` is false. An `Idempotency-Key` makes it once, also across restarts."""
    wanted, options = create_of(body, parts.environment, door.caller, request_key_of(door.caller, key_of(request), await request.body()))

    async def do() -> Response:
        info = await door.kernel.create(door.caller, wanted, options)
        notices = [notice_record(notice) for notice in info.notices]
        return answer(await _described(door, info) | {"notices": notices}, status=CREATED)

    return await replays.once(request, door.caller, do)


@router.get("/{name}", operation_id="sandbox_info", responses=said(DescribedSandbox))
async def sandbox_info(name: str, door: Asked) -> Response:
    """Describes one, by its name or id."""
    return answer(await _described(door, await door.kernel.info(door.caller, name)))


@router.patch("/{name}", operation_id="sandbox_patch", responses=said(Sandbox))
async def sandbox_patch(name: str, body: PatchBody, door: Asked) -> Response:
    """Gives it other labels, or another name."""
    info = await door.kernel.info(door.caller, name)
    if body.labels is not None:
        info = await door.kernel.relabel(door.caller, info.sandbox_id, labels_of(body.labels))
    if body.name is not None and body.name != info.name:
        info = await door.kernel.rename(door.caller, info.sandbox_id, body.name)
    return answer(sandbox_record(info))


@router.delete("/{name}", operation_id="sandbox_remove", responses=said(str))
async def sandbox_remove(
    name: str, door: Asked, force: Annotated[bool, Query(description="False: one that runs is left alone, and the answer is 409.")] = True
) -> Response:
    """Removes it and its files, running or not."""
    await door.kernel.remove(door.caller, name, force=force)
    return answer("Sandbox removed")


@router.post("/{name}/start", operation_id="sandbox_start", responses=said(Sandbox))
async def sandbox_start(name: str, door: Asked, body: StartBody | None = None) -> Response:
    """Boots it with its files; one that runs is fine."""
    values = secret_values_of(body.secrets) if body is not None and body.secrets else None
    return answer(sandbox_record(await door.kernel.start(door.caller, name, values)))


@router.post("/{name}/stop", operation_id="sandbox_stop", responses=said(Sandbox))
async def sandbox_stop(name: str, door: Asked) -> Response:
    """Ends everything in it and keeps its files; one that is stopped is fine."""
    return answer(sandbox_record(await door.kernel.stop(door.caller, name)))


@router.post("/{name}/extend", operation_id="sandbox_extend", responses=said(Sandbox))
async def sandbox_extend(name: str, body: ExtendBody, door: Asked) -> Response:
    """Lets it expire so long from now."""
    return answer(sandbox_record(await door.kernel.extend(door.caller, name, seconds("by", body.by))))


async def _described(door: Door, info: SandboxInfo) -> dict[str, Any]:
    spec, rules = await asyncio.gather(door.kernel.spec(door.caller, info.sandbox_id), _rules(door, info))
    memory = spec.resources.memory_bytes
    return sandbox_record(info) | {
        "vcpus": spec.resources.cpus,
        "memory_mb": None if memory is None else memory // MIB,
        "disk_mb": spec.resources.disk_bytes // MIB,
        "pids": spec.resources.pids,
        "rules": rules,
    }


async def _rules(door: Door, info: SandboxInfo) -> dict[str, Any] | None:
    if info.network is not NetworkMode.FILTERED:
        return None
    return rules_record(await door.kernel.network(door.caller, info.sandbox_id))


def _labels(words: Sequence[str]) -> Labels:
    found = {}
    for word in words:
        key, mark, value = word.partition("=" if "=" in word else ":")
        if not key or not mark:
            raise InvalidInput(f"{word!r} is no label", hint="write KEY:VALUE")
        found[key] = value
    return labels_of(found)
