"""The application: every route, every handler, and the gate round them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Depends, FastAPI

from agentkernel.api.auth import LOG, Authority
from agentkernel.api.doors import Doors
from agentkernel.api.envelope import HANDLERS
from agentkernel.api.gate import Gate
from agentkernel.api.idempotency import Replays
from agentkernel.api.metrics import Metrics
from agentkernel.api.openapi import Application
from agentkernel.api.parts import Parts
from agentkernel.api.quick import Quick
from agentkernel.api.routes import (
    agents,
    audit,
    backends,
    batch,
    detached,
    engine,
    files,
    health,
    images,
    logs,
    network,
    ports,
    processes,
    run,
    sandboxes,
)
from agentkernel.api.routes import exec as exec_routes
from agentkernel.api.routes import metrics as metric_routes
from agentkernel.api.streams import archive, door, events, exec_sse, exec_ws
from agentkernel.api.streams import files as file_streams
from agentkernel.api.strict import strict
from agentkernel.api.upgrade import no_route
from agentkernel.config.removal import Running, watch

# One is asked after the other whether a request is its own: those first that are asked often and are to be quick.
ROUTERS: Final = (
    run.router,
    exec_routes.router,
    sandboxes.router,
    exec_sse.router,
    exec_ws.router,
    files.router,
    file_streams.router,
    health.router,
    door.router,
    detached.router,
    processes.router,
    logs.router,
    network.router,
    ports.router,
    events.router,
    archive.router,
    batch.router,
    images.router,
    backends.router,
    agents.router,
    audit.router,
    engine.router,
    metric_routes.router,
)
CLEAN_UP_S: Final = 5.0  # for what was cancelled at the end


def build(parts: Parts) -> FastAPI:
    """The application. Its lifespan ends what is under way for removed tokens, and closes the kernels that it opened."""
    doors = Doors(parts.doors, parts.limits.daemon_connections, is_shared=parts.tunnel is None)
    running, authority, metrics = Running(), Authority(parts.caller, parts.tokens), Metrics(parts.version)
    replays = Replays()

    async def end_removed() -> None:
        gone = authority.ended()
        for caller in gone:
            running.end(caller)
            replays.end(caller)
        for caller in gone:
            await doors.drop(caller)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(watch(end_removed, LOG), name="looking for removed tokens")
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait([looking])
            await running.idle(CLEAN_UP_S)
            await replays.close()
            await doors.close()

    app = Application(
        title="agentkernel",
        version=parts.version,
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # asked for with each request otherwise
        exception_handlers=HANDLERS,
    )
    app.router.default = no_route
    app.state.parts, app.state.metrics, app.state.replays = parts, metrics, replays
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(strict)])
    app.add_middleware(Quick, parts=parts, replays=replays)
    app.add_middleware(Gate, parts=parts, doors=doors, authority=authority, running=running, metrics=metrics)
    return app
