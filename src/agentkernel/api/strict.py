"""Nothing that a request says is passed over: what its route does not know is an error, before anything is done."""

from __future__ import annotations

from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.requests import HTTPConnection

from agentkernel.api.auth import OPEN_PATHS
from agentkernel.api.guards import SHOWN
from agentkernel.api.idempotency import HEADER, KEYED
from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.model.names import suggest


async def strict(connection: HTTPConnection) -> None:
    """Of every route: raises UnknownKey for a parameter in the query that it does not have, InvalidInput for a key that it cannot keep."""
    route = connection.scope.get("route")
    if not isinstance(route, APIRoute | APIWebSocketRoute) or route.path in OPEN_PATHS:  # which watchers ask as they like
        return
    if connection.scope["query_string"]:
        known = [each.alias for each in route.dependant.query_params]
        for name in connection.query_params:
            if name not in known:
                raise UnknownKey(f"the query has no parameter {name[:SHOWN]!r}", hint=suggest(name[:SHOWN], known) or "leave it out")
    if HEADER in connection.headers and isinstance(route, APIRoute) and "POST" in (route.methods or ()) and route.operation_id not in KEYED:
        raise InvalidInput(
            "this route takes no Idempotency-Key: it would be done again", hint="POST /run and POST /sandboxes take one; leave it out"
        )
