"""/agents: coding agents, and whether the server's host has them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from agentkernel.api.doors import Asked, Built, about_host
from agentkernel.api.envelope import answer
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_server import Agent
from agentkernel.config.agents import AGENTS, agent_record

router = APIRouter(tags=["server"])


@router.get("/agents", operation_id="agents", responses=said(list[Agent]))
async def agents(door: Asked, parts: Built) -> Response:
    """The agents that agentkernel knows. Nothing of them is run to find out."""
    about_host(door.caller, "agents")
    await door.kernel.status(door.caller)  # who may not even ask this is told nothing of the host
    return answer([_told(agent_record(each, parts.environment), door.caller.is_elsewhere) for each in AGENTS])


def _told(record: dict[str, object], is_elsewhere: bool) -> dict[str, object]:
    """An agent, to callers elsewhere without which of the operator's credentials there are."""
    if not is_elsewhere:
        return record
    kept = {name: value for name, value in record.items() if name != "api_key_set"}
    return kept | {"status": "installed" if record["installed"] else "not installed"}
