"""Decisions and what they rest on: the backends of the installation, what they can do here, and a request's surroundings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from agentkernel import engine as late  # what only some runs need
from agentkernel.abc import Backend
from agentkernel.abc_images import KeepsImages
from agentkernel.engine.fingerprints import FingerprintCache
from agentkernel.engine.parts import Parts
from agentkernel.engine.probing import Probes
from agentkernel.engine.surroundings import gather, resolve
from agentkernel.errors import BackendUnavailable, LaunchFailed, NotFound, UnknownKey, Unsupported
from agentkernel.model.image import Image, ImageProgress, PullPolicy
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Support
from agentkernel.model.request import Grant, SandboxRequest
from agentkernel.model.spec import RootKind
from agentkernel.policy.choose import in_order_of_holders, to_unpack
from agentkernel.policy.decide import decide
from agentkernel.policy.surroundings import Surroundings

if TYPE_CHECKING:
    from agentkernel.abc_images import Report
    from agentkernel.engine.imagekeepers import ImageKeepers
    from agentkernel.engine.images import TarImages

RETRY_S = 5.0  # before a backend that could not be loaded is tried again


class Granting:
    """The backends, loaded when they are needed. `sweep` is called once for each, before its first sandbox.

    `in_use` tells the directories and digests of images that sandboxes need.
    """

    def __init__(
        self, parts: Parts, sweep: Callable[[Backend], asyncio.Task[int]], in_use: Callable[[], Awaitable[Collection[str]]]
    ) -> None:
        self._parts = parts
        self._sweep = sweep
        self._in_use = in_use
        self._probes = Probes(parts.backends, FingerprintCache(parts.cache_directory, parts.standing), self.backend)
        self._backends: dict[str, Backend] = {}
        self._missing: dict[str, tuple[float, BackendUnavailable]] = {}
        self._silent: set[str] = set()  # those that did not answer when they were last needed
        self._swept: dict[str, asyncio.Task[int]] = {}
        self._taking_up = asyncio.Lock()

    @cached_property
    def images(self) -> ImageKeepers:
        """Who keeps images."""
        choice = late.Choice(names=self._present_names, load=self.backend, probe=self._probes.ready)
        keepers: ImageKeepers = late.ImageKeepers(self._parts, choice, self._unpack, self._in_use)
        return keepers

    def names(self) -> tuple[str, ...]:
        """The backends that take part in the choice."""
        return self._parts.backends.names()

    async def fingerprints(self) -> list[Fingerprint]:
        """Probes every backend of the installation, also those that never take part in the choice."""
        return await self._probes.every()

    async def grant(self, request: SandboxRequest) -> Grant:
        """Decides without doing anything. Probes are remembered, see `Probes`.

        What an image that has a name says of its commands counts if it is here already, and need not be asked for anew (`Grant.fetches`).
        Raises NotFound for one that is not here and is not to be fetched.
        """
        resolved = resolve(request)
        surroundings = gather(resolved, self._parts)
        held: dict[str, Image] = {}
        if surroundings.image_name is not None and resolved.pull is not PullPolicy.ALWAYS:
            held = await self.images.holders(surroundings.image_name.reference, resolved.backend)
            surroundings = replace(surroundings, image_holders=frozenset(held))
        first = in_order_of_holders(held)
        grant = await self._probes.decided(resolved.backend, lambda known: decide(resolved, surroundings, known), first)
        if not grant.fetches or resolved.pull is PullPolicy.ALWAYS:
            return grant
        image = held.get(grant.backend) or await (await self.images.of(grant.backend)).find(grant.spec.root.reference)
        if image is not None:
            return await self._again(grant, resolved, surroundings, image)
        if resolved.pull is PullPolicy.NEVER:
            name = grant.spec.root.label
            raise NotFound(
                f"the image {name} is not here, and is not to be fetched",
                hint=f"agentkernel image pull {_kept_by(self.backend(grant.backend))}{name}",
            )
        return grant

    async def prepared(self, grant: Grant, request: SandboxRequest, report: Report | None = None) -> Grant:
        """The same with its image here and its backend swept: ready to be built. Raises what `ImageKeeper.obtain` raises."""
        backend = self.backend(grant.backend)
        await self.swept(backend)
        root = grant.spec.root
        if grant.tar_image is not None:
            return await self._with_tar(grant, grant.tar_image, request, backend)
        if not root.reference or (root.digest and root.kind is RootKind.IMAGE):
            return grant
        policy = request.pull if grant.fetches else PullPolicy.MISSING  # of the store, which notes that it is used
        async with self.images.in_time():
            image = await self.images.of_backend(backend).obtain(root.reference, policy, report or _unheard)
        if (image.digest, image.directory) == (root.digest, root.directory):
            return grant
        return await self._decided_again(grant, request, image)

    async def _with_tar(self, grant: Grant, path: str, request: SandboxRequest, backend: Backend) -> Grant:
        """An archive as root: unpacked, or taken up by the engine that keeps images itself."""
        tars: TarImages = late.TarImages(self._parts.cache_directory, self._unpack)
        if not isinstance(backend, KeepsImages):
            directory = await tars.unpacked(path)
            return replace(grant, tar_image=None, spec=replace(grant.spec, root=replace(grant.spec.root, directory=directory)))
        reference = self._parts.images.canonical(f"localhost/agentkernel-tar:{await tars.digest(path)}")
        keeper = self.images.of_backend(backend)
        async with self._taking_up:  # an engine would make two images of it, and forget the name of one
            image = await keeper.find(reference) or await keeper.import_image(path, reference, _unheard)
        return await self._decided_again(grant, request, image)

    async def _decided_again(self, grant: Grant, request: SandboxRequest, image: Image) -> Grant:
        resolved = resolve(request)
        return await self._again(grant, resolved, gather(resolved, self._parts), image)

    async def _again(self, grant: Grant, resolved: SandboxRequest, surroundings: Surroundings, image: Image) -> Grant:
        """The decision with what the image says, for the backend that was chosen without knowing that."""
        fixed = replace(resolved, backend=grant.backend, name=grant.spec.name)
        known = replace(surroundings, image=image)
        found = await self._probes.decided(grant.backend, lambda fingerprints: decide(fixed, known, fingerprints))
        return replace(found, chosen=grant.chosen)

    async def _unpack(self, options: Sequence[str], archives: Sequence[str], destination: str) -> None:
        """Implements `parts.Unpack`."""
        await late.Unpacking(self._parts, self._unpacker)(options, archives, destination)

    async def _unpacker(self) -> Backend:
        """The backend in whose sandboxes archives are unpacked."""
        for name in to_unpack(self._present_names()):
            found = await self._probes.ready(name)
            if found is not None and not any(found.support(each) is Support.REFUSED for each in (Feature.HOST_ROOT, Feature.MOUNTS)):
                backend = self.backend(name)
                await self.swept(backend)
                return backend
        hint = "`agentkernel doctor` says what would make namespaces or gvisor ready"
        raise Unsupported("images cannot be unpacked here: no backend that is ready shows this host's own system", hint=hint)

    def _present_names(self) -> tuple[str, ...]:
        source = self._parts.backends
        return tuple(name for name in source.names() if source.presence(name).identity)

    def close(self) -> None:
        """Lets go of images."""
        if "images" in self.__dict__:  # made when it was first needed
            self.images.close()

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
        presence = self._parts.backends.presence(name)  # asked each time: whoever starts an engine again uses it at once
        if not presence.identity:
            raise _gone(presence.reason, presence.remedy)
        tried_at, missing = self._missing.get(name, (0.0, None))
        if missing is not None and time.monotonic() - tried_at < RETRY_S:
            raise BackendUnavailable(missing.message, hint=missing.hint)
        try:
            backend = self.backend(name)
        except (UnknownKey, BackendUnavailable) as error:
            gone = _gone(error.message, error.hint)
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


def _gone(why: str, remedy: str) -> BackendUnavailable:
    return BackendUnavailable(f"the sandbox's backend is not to be had: {why}", hint=f"{remedy or 'install it again'}; or remove --force")


def _kept_by(backend: Backend) -> str:
    """The option that has an image kept where that backend finds it."""
    return f"--backend {backend.name} " if isinstance(backend, KeepsImages) else ""


def _unheard(_: ImageProgress) -> None:
    """Nobody watches."""
