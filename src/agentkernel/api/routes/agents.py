"""/agents: coding agents, and whether the server's host has them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from agentkernel.api.doors import Asked, Built
from agentkernel.api.envelope import answer
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_server import Agent
from agentkernel.config.agents import AGENTS, agent_record

router = APIRouter(tags=["server"])


@router.get("/agents", operation_id="agents", responses=said(list[Agent]))
async def agents(door: Asked, parts: Built) -> Response:
    """The agents that agentkernel knows. Nothing of them is run to find out."""
    await door.kernel.status(door.caller)  # who may not even ask this is told nothing of the host
    return answer([agent_record(each, parts.environment) for each in AGENTS])
