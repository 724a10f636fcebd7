"""Who creates a Podman's containers: the engine itself, with its own default runtime; or, with any other, a service of agentkernel's own.

Podman 4 does not let who creates a container choose its runtime: it is a service's. Another service helps only where it has the same
containers, which is so of one that runs here and has the same storage: afterwards any of them finds and starts what one has created.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from agentkernel.backends.containers.api import Api, EngineRefused
from agentkernel.backends.containers.calls import Containers
from agentkernel.backends.containers.endpoint import Endpoint
from agentkernel.backends.containers.podman_service import PodmanService
from agentkernel.errors import BackendUnavailable, LaunchFailed

_CREATE = "/libpod/containers/create"
_WHICH_HOST = ("hostname", "kernel")
_WHICH_STORAGE = ("graphDriverName", "graphRoot", "runRoot", "volumePath")


class Makers:
    """Of the engine that `api` talks to. `own` says where a service of ours with that runtime is (empty: as Podman is configured), or
    raises BackendUnavailable where there cannot be one; it starts with the first call."""

    def __init__(self, api: Api, own: Callable[[str], Endpoint], title: str) -> None:
        self._api, self._own, self._title = api, own, title
        self._services: dict[str, Api] = {}  # by runtime
        self._proven: set[str] = set()  # runtimes with which a container was created that the engine knows

    async def share(self, information: Mapping[str, Any], runtime: str) -> bool:
        """Whether a service of ours with that runtime would have the containers of the engine that says this of itself.

        `information`: its `GET /libpod/info`. A service is asked for its own only if the engine may be this host's at all.
        """
        try:
            if isinstance(self._api.endpoint, PodmanService):
                return True
            found = await self._service(runtime).call("GET", "/libpod/info")
        except (BackendUnavailable, EngineRefused):
            return False  # there is none here
        return _storage(found) == _storage(information)

    async def create(self, runtime: str, body: Mapping[str, Any]) -> None:
        """Creates a container with that runtime, of which the engine knows afterwards; empty: with the engine's default.

        Raises LaunchFailed, and leaves nothing behind, where a service of ours turns out to have other containers than the engine.
        """
        maker = self._service(runtime) if runtime else self._api
        if not runtime or runtime in self._proven:
            await maker.call("POST", _CREATE, body=body)
            return
        if not await self._is_known(maker, body):
            raise LaunchFailed(
                f"{self._title} at {self._api.endpoint} has other containers than this host's own, and so none with the runtime {runtime}",
                hint=f"serve it with that runtime: `podman --runtime {runtime} system service`",
            )
        self._proven.add(runtime)

    async def _is_known(self, maker: Api, body: Mapping[str, Any]) -> bool:
        """Creates a container, and removes it again unless the engine knows it: nobody else would find it."""
        name, is_stranded = str(body["name"]), True
        try:
            try:
                await maker.call("POST", _CREATE, body=body)
            except EngineRefused:
                is_stranded = False  # there is none, or it is somebody's
                raise
            is_stranded = await Containers(self._api).find(name) is None
        finally:
            if is_stranded:
                await asyncio.shield(Containers(maker).remove(name))
        return not is_stranded

    def close(self) -> None:
        """Ends the threads of their calls. A service ends by idleness, since other engines of this user may use it."""
        for service in self._services.values():
            service.close()

    def _service(self, runtime: str) -> Api:
        if runtime not in self._services:
            self._services[runtime] = Api(lambda: self._own(runtime), self._title)
        return self._services[runtime]


def _storage(information: object) -> tuple[object, ...]:
    """What tells one Podman's storage from another's: the same host, the same directories."""
    found = information if isinstance(information, Mapping) else {}
    host, store = found.get("host") or {}, found.get("store") or {}
    return (*map(host.get, _WHICH_HOST), *map(store.get, _WHICH_STORAGE))
