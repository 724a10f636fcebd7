"""/sandboxes/{name}/ports: ports inside that the server's host listens for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from agentkernel.api.doors import Asked
from agentkernel.api.envelope import answer
from agentkernel.api.shapes import PortBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_sandboxes import PublishedPort
from agentkernel.config.options import port_of
from agentkernel.text.records import port_record

router = APIRouter(prefix="/sandboxes/{name}/ports", tags=["network"])


@router.get("", operation_id="port_list", responses=said(list[PublishedPort]))
async def port_list(name: str, door: Asked) -> Response:
    """What is published of it, by port; `host_address` is of the server's own host."""
    return answer([port_record(port) for port in await door.kernel.ports(door.caller, name)])


@router.post("", operation_id="port_publish", responses=said(PublishedPort))
async def port_publish(name: str, body: PortBody, door: Asked) -> Response:
    """Listens on the loopback of the server's own host for a port inside, until that is ended or the sandbox stops.

    Other machines do not reach it there, and no other address is listened at: one that is asked for is refused.
    """
    return answer(port_record(await door.kernel.publish(door.caller, name, port_of(body.port, body.host_port))))


@router.delete("/{port}", operation_id="port_unpublish", responses=said(str))
async def port_unpublish(name: str, port: Annotated[int, Path(ge=1, le=65535, description="Inside.")], door: Asked) -> Response:
    """Ends that, with its connections; one that is not published is fine."""
    await door.kernel.unpublish(door.caller, name, port)
    return answer("Port unpublished")
