"""The engine: a request comes in at the door, policy decides, a backend builds, and whatever happens the sandbox is removed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from agentkernel import engine as late  # what only some runs need
from agentkernel.abc import Backend, Caller, Sandbox
from agentkernel.engine.ending import LINGER_S, to_the_end
from agentkernel.engine.fingerprints import FingerprintCache
from agentkernel.engine.parts import Parts
from agentkernel.engine.surroundings import appeared, gather, resolve
from agentkernel.errors import AgentKernelError, LaunchFailed, NotFound
from agentkernel.model.isolation import Fingerprint, IsolationLevel
from agentkernel.model.request import Grant, Notice, SandboxRequest
from agentkernel.policy.decide import decide


class Engine:
    """Implements `abc.Kernel` in process. Its sandboxes end with their block; what a crash leaves, the next start sweeps."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._cache = FingerprintCache(parts.cache_directory, parts.standing)
        self._backends: dict[str, Backend] = {}
        self._levels: dict[str, IsolationLevel] = {}
        self._swept: set[str] = set()

    async def fingerprints(self, caller: Caller) -> Sequence[Fingerprint]:
        """Probes every backend of the installation, also those that never take part in the choice."""
        return [await self._probe(name) for name in self._parts.backends.all_names()]

    async def grant(self, caller: Caller, request: SandboxRequest) -> Grant:
        """Decides without doing anything. Probes are remembered, see `FingerprintCache`."""
        names = self._parts.backends.names()
        if request.backend is not None and request.backend not in names and request.backend in self._parts.backends.all_names():
            names = (*names, request.backend)
        known = [self._cache.get(name) or await self._probe(name) for name in names]
        self._levels |= {found.backend: found.level for found in known}
        resolved = resolve(request)
        return decide(resolved, gather(resolved, self._parts), known)

    def sandbox(self, caller: Caller, request: SandboxRequest) -> AbstractAsyncContextManager[tuple[Sandbox, Grant]]:
        """Builds a sandbox and destroys it at the end of the block, also when the block is cancelled."""
        return self._sandbox(caller, request)

    async def aftermath(self, caller: Caller, grant: Grant) -> Sequence[Notice]:
        """Names files that appeared in a writable workspace where a protected one could not be, because there was none."""
        made = appeared(grant.spec.workspace)
        if not made:
            return ()
        message = f"the sandbox made {', '.join(made)} in {grant.spec.workspace.source}: programs on the host run or obey such files"
        return (Notice(code="protected-path-made", message=message, hint="read them before you go on working there"),)

    def isolation_of(self, backend: str) -> IsolationLevel:
        """The level that the last probe found."""
        if backend not in self._levels:
            found = self._cache.get(backend)
            if found is None:
                raise NotFound(f"backend {backend!r} has not been probed", hint="run `agentkernel doctor`")
            self._levels[backend] = found.level
        return self._levels[backend]

    @asynccontextmanager
    async def _sandbox(self, caller: Caller, request: SandboxRequest) -> AsyncIterator[tuple[Sandbox, Grant]]:
        grant = await self.grant(caller, request)
        grant = replace(grant, spec=replace(grant.spec, linger_s=LINGER_S))
        backend = self._backend(grant.backend)
        if grant.backend not in self._swept:
            self._swept.add(grant.backend)
            await backend.sweep()
        if grant.tar_image is not None:
            directory = await late.TarImages(self._parts).unpacked(grant.tar_image, backend)
            grant = replace(grant, spec=replace(grant.spec, root=replace(grant.spec.root, directory=directory)))
        sandbox = await self._create(backend, grant)
        try:
            yield sandbox, grant
        finally:
            await to_the_end(sandbox.destroy())

    async def _create(self, backend: Backend, grant: Grant) -> Sandbox:
        try:
            return await backend.create(grant.spec)
        except LaunchFailed:
            self._cache.forget(grant.backend)  # the host is not what the probe found
            raise

    async def _probe(self, name: str) -> Fingerprint:
        try:
            found = await self._backend(name).probe()
        except AgentKernelError as error:
            return Fingerprint(backend=name, ready=False, level=IsolationLevel.NONE, reason=error.message, remedy=error.hint)
        self._cache.put(found)
        self._levels[name] = found.level
        return found

    def _backend(self, name: str) -> Backend:
        if name not in self._backends:
            self._backends[name] = self._parts.backends.load(name)
        return self._backends[name]
