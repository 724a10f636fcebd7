"""/sandboxes/{name}/network: who it may talk to, and what it has tried to reach."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from agentkernel.api.doors import Asked
from agentkernel.api.envelope import answer
from agentkernel.api.shapes import NetworkBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_sandboxes import Attempts, Rules
from agentkernel.config.options import change_of
from agentkernel.model.decisions import KINDS, decisions_of
from agentkernel.model.network import Verdict
from agentkernel.model.record import EventFilter
from agentkernel.text.records import decision_record, rules_record

router = APIRouter(prefix="/sandboxes/{name}/network", tags=["network"])

EventId = Annotated[int, Query(ge=0, le=2**62, description="The cursor of the page before.")]
UnixTime = Annotated[float, Query(ge=0, le=1e12, description="Unix seconds.")]
MOST: Final = 1000


@router.get("", operation_id="network_rules", responses=said(Rules))
async def network_rules(name: str, door: Asked) -> Response:
    """Its rules; 422 where its network is not filtered: it has none, or the host's."""
    return answer(rules_record(await door.kernel.network(door.caller, name)))


@router.patch("", operation_id="network_change", responses=said(Rules))
async def network_change(name: str, body: NetworkBody, door: Asked) -> Response:
    """Adds and drops rules, for new connections at once; open ones that are now denied end. A rule that denies wins."""
    change = change_of(allow=body.allow, deny=body.deny, forget=body.remove)
    return answer(rules_record(await door.kernel.change_network(door.caller, name, change)))


@router.get("/log", operation_id="network_log", responses=said(Attempts))
async def network_log(
    name: str,
    door: Asked,
    verdict: Annotated[Literal["allowed", "denied", "failed"] | None, Query(description="Only these.")] = None,
    since: UnixTime = 0.0,
    after: EventId = 0,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
) -> Response:
    """What it has tried to reach and what became of it, oldest first."""
    info = await door.kernel.info(door.caller, name)
    only = None if verdict is None else Verdict(verdict)
    wanted = EventFilter(sandbox=info.sandbox_id, kinds=KINDS, since=since, after=after, limit=limit)
    events = [event async for event in door.kernel.events(door.caller, wanted)]
    return answer(
        {
            "attempts": [decision_record(decision) for event in events for decision in decisions_of(event, only)],
            "next_after": events[-1].event_id if len(events) == limit else None,
        }
    )
