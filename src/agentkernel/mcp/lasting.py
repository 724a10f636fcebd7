"""Sandboxes that last: made, looked at, started, stopped and removed."""

from __future__ import annotations

from typing import Final

from agentkernel.config.options import labels_of, seconds
from agentkernel.errors import InvalidInput
from agentkernel.mcp.answer import Answer, said
from agentkernel.mcp.arguments import CreateArguments, ExtendArguments, Named, NoArguments
from agentkernel.mcp.desk import MADE_BY, Desk, Tell, marked
from agentkernel.mcp.fetching import fetched
from agentkernel.mcp.running import wishes_of
from agentkernel.mcp.shapes import Done, Sandboxes, sandbox_of
from agentkernel.model.names import validate_name
from agentkernel.model.record import CreateOptions, SandboxInfo

TEMPORARY_S: Final = 24 * 3600.0  # what is left of a server that was killed goes then


async def create(desk: Desk, arguments: CreateArguments, tell: Tell) -> Answer:
    """A sandbox that runs until it is stopped or removed."""
    if arguments.name is not None:
        validate_name(arguments.name)
    labels = labels_of(arguments.labels or {})
    if any(key == MADE_BY[0] for key, _ in labels):
        raise InvalidInput(f"the label {MADE_BY[0]} is not yours to set", hint="choose another key")
    request = desk.request(wishes_of(arguments))
    await tell("making a sandbox")
    request = await fetched(desk, request, tell)
    options = CreateOptions(
        name=arguments.name,
        labels=marked(labels),
        ttl_s=arguments.ttl_s or (TEMPORARY_S if arguments.temporary else None),
        idle_s=arguments.idle_s or None,
        start=True,
    )
    info = await desk.created(request, options, temporary=arguments.temporary)
    return said(sandbox_of(info), f"Sandbox {info.name!r} was made and runs, {_where(info)}.")


async def start(desk: Desk, arguments: Named, tell: Tell) -> Answer:
    """Its files are as they were."""
    found = await desk.usable(arguments.name)
    info = await desk.kernel.start(desk.caller, found.sandbox_id)
    return said(sandbox_of(info), f"Sandbox {info.name!r} runs.")


async def stop(desk: Desk, arguments: Named, tell: Tell) -> Answer:
    """Its files are kept."""
    found = await desk.manageable(arguments.name)
    info = await desk.kernel.stop(desk.caller, found.sandbox_id)
    return said(sandbox_of(info), f"Sandbox {info.name!r} is stopped; its files are kept.")


async def remove(desk: Desk, arguments: Named, tell: Tell) -> Answer:
    """With its files, running or not."""
    found = await desk.manageable(arguments.name)
    await desk.kernel.remove(desk.caller, found.sandbox_id, force=True)
    desk.temporary.discard(found.sandbox_id)
    return said(Done(name=found.name, done="removed"), f"Sandbox {found.name!r} was removed.")


async def info(desk: Desk, arguments: Named, tell: Tell) -> Answer:
    """One, as it is now."""
    found = await desk.find(arguments.name)
    return said(sandbox_of(found), _described(found))


async def listed(desk: Desk, arguments: NoArguments, tell: Tell) -> Answer:
    """All of the model's."""
    found = await desk.all()
    lines = ["NAME\tSTATUS\tBACKEND", *(f"{each.name}\t{each.status.value}\t{each.backend}" for each in found)]
    return said(Sandboxes(sandboxes=list(map(sandbox_of, found))), "\n".join(lines) if found else "There are no sandboxes.")


async def extend_ttl(desk: Desk, arguments: ExtendArguments, tell: Tell) -> Answer:
    """From now on."""
    ttl_s = seconds("by", arguments.by)
    await desk.manageable(arguments.name)
    found = await desk.usable(arguments.name)
    info = await desk.kernel.extend(desk.caller, found.sandbox_id, ttl_s)
    lives = f"for {ttl_s:g} seconds more" if ttl_s else "until it is removed"
    return said(sandbox_of(info), f"Sandbox {info.name!r} lives {lives}.")


def _where(info: SandboxInfo) -> str:
    return f"isolated by {info.backend} ({info.isolation.label})"


def _described(info: SandboxInfo) -> str:
    lines = [
        f"{info.name} ({info.sandbox_id}): {info.status.value}, {_where(info)}",
        f"profile {info.profile}, network {info.network.value}, files of {info.image}",
    ]
    lines += [f"port {port.port} at {port.host_address}:{port.host_port}" for port in info.ports]
    return "\n".join([*lines, info.reason] if info.reason else lines)
