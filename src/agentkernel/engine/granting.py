"""Decisions and what they rest on: the backends of the installation, what they can do here, and a request's surroundings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from agentkernel import engine as late  # what only some runs need
from agentkernel.abc import Backend
from agentkernel.engine.fingerprints import FingerprintCache
from agentkernel.engine.parts import Parts
from agentkernel.engine.probing import Probes
from agentkernel.engine.surroundings import gather, resolve
from agentkernel.errors import BackendUnavailable, LaunchFailed, UnknownKey
from agentkernel.model.isolation import Fingerprint, IsolationLevel
from agentkernel.model.request import Grant, SandboxRequest
from agentkernel.policy.decide import decide

RETRY_S = 5.0  # before a backend that could not be loaded is tried again


class Granting:
    """The backends, loaded when they are needed. `sweep` is called once for each, before its first sandbox."""

    def __init__(self, parts: Parts, sweep: Callable[[Backend], asyncio.Task[int]]) -> None:
        self._parts = parts
        self._sweep = sweep
        self._probes = Probes(parts.backends, FingerprintCache(parts.cache_directory, parts.standing), self.backend)
        self._backends: dict[str, Backend] = {}
        self._missing: dict[str, tuple[float, BackendUnavailable]] = {}
        self._silent: set[str] = set()  # those that did not answer when they were last needed
        self._swept: dict[str, asyncio.Task[int]] = {}

    def names(self) -> tuple[str, ...]:
        """The backends that take part in the choice."""
        return self._parts.backends.names()

    async def fingerprints(self) -> list[Fingerprint]:
        """Probes every backend of the installation, also those that never take part in the choice."""
        return await self._probes.every()

    async def grant(self, request: SandboxRequest) -> Grant:
        """Decides without doing anything. Probes are remembered, see `Probes`."""
        resolved = resolve(request)
        surroundings = gather(resolved, self._parts)
        return await self._probes.decided(resolved.backend, lambda known: decide(resolved, surroundings, known))

    async def prepared(self, grant: Grant) -> Grant:
        """The same with its image unpacked and its backend swept: ready to be built."""
        backend = self.backend(grant.backend)
        await self.swept(backend)
        if grant.tar_image is None:
            return grant
        directory = await late.TarImages(self._parts).unpacked(grant.tar_image, backend)
        return replace(grant, spec=replace(grant.spec, root=replace(grant.spec.root, directory=directory)))

    def isolation_of(self, backend: str) -> IsolationLevel:
        """The level that the last probe found."""
        return self._probes.level_of(backend)

    def backend(self, name: str) -> Backend:
        """The backend of that name; raises UnknownKey, BackendUnavailable."""
        if name not in self._backends:
            self._backends[name] = self._parts.backends.load(name)
        return self._backends[name]

    def own(self, name: str) -> Backend:
        """The backend that a sandbox was made by; raises BackendUnavailable when it cannot be had (any more)."""
        tried_at, missing = self._missing.get(name, (0.0, None))
        if missing is not None and time.monotonic() - tried_at < RETRY_S:
            raise BackendUnavailable(missing.message, hint=missing.hint)
        try:
            backend = self._present(name)
        except (UnknownKey, BackendUnavailable) as error:
            hint = f"{error.hint or 'install it again'}; or remove --force"
            gone = BackendUnavailable(f"the sandbox's backend is not to be had: {error.message}", hint=hint)
            self._missing[name] = (time.monotonic(), gone)
            raise gone from error
        self._missing.pop(name, None)
        return backend

    def is_missing(self, name: str) -> bool:
        """Whether `own` would raise, or the backend did not answer when it was last needed."""
        try:
            self.own(name)
        except BackendUnavailable:
            return True
        return name in self._silent

    @contextmanager
    def asking(self, name: str) -> Iterator[None]:
        """For what a backend is asked to do with a sandbox that it has: notes whether it answers."""
        try:
            yield
        except BackendUnavailable:
            self._silent.add(name)
            raise
        self._silent.discard(name)

    def doubt(self, error: BaseException, backend: str) -> None:
        """A sandbox could not be built: the host is not what the probe found."""
        if isinstance(error, LaunchFailed):
            self._probes.forget(backend)

    async def swept(self, backend: Backend) -> None:
        """Waits until what crashes left of the backend's sandboxes has been removed, which is done once."""
        task = self._swept.get(backend.name)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._swept[backend.name] = self._sweep(backend)
        if not task.done():
            await asyncio.shield(task)

    def _present(self, name: str) -> Backend:
        presence = self._parts.backends.presence(name)
        if not presence.identity:
            raise BackendUnavailable(presence.reason, hint=presence.remedy)
        return self.backend(name)
