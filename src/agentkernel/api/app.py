"""The application: every route, every handler, and the gate round them."""

from __future__ import annotations

import pkgutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from fastapi import APIRouter, FastAPI

from agentkernel.api.doors import Doors
from agentkernel.api.envelope import HANDLERS
from agentkernel.api.gate import Gate
from agentkernel.api.parts import Parts

PACKAGES = ("agentkernel.api.routes", "agentkernel.api.streams")  # each module of them with a `router`


def build(parts: Parts) -> FastAPI:
    """The application. Its lifespan closes the kernels that it opened."""
    doors = Doors(parts.doors)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await doors.close()

    app = FastAPI(
        title="agentkernel",
        version=parts.version,
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=HANDLERS,
    )
    app.state.parts = parts
    for router in routers():
        app.include_router(router)
    app.add_middleware(Gate, parts=parts, doors=doors)
    return app


def routers() -> list[APIRouter]:
    """The routers of all modules of routes and streams, by name."""
    found = []
    for name in PACKAGES:
        package = import_module(name)
        for module in sorted(each.name for each in pkgutil.iter_modules(package.__path__)):
            router = getattr(import_module(f"{name}.{module}"), "router", None)
            if isinstance(router, APIRouter):
                found.append(router)
    return found
