"""Who keeps images: each engine of containers its own, agentkernel's own store those of all other backends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from agentkernel.abc_images import KeepsImages, TakesLogins
from agentkernel.config.directories import IMAGES
from agentkernel.errors import AgentKernelError, BackendUnavailable, ImageFailed, Unsupported
from agentkernel.units import format_duration

if TYPE_CHECKING:
    from agentkernel.abc import Backend
    from agentkernel.abc_images import ImageKeeper
    from agentkernel.engine.parts import OwnImages, Parts, Unpack
    from agentkernel.model.image import Image, ImageLimits, ImageRecord
    from agentkernel.model.isolation import Fingerprint

LIST_S = 10.0  # for an engine to tell its images among those of others


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The backends of one engine, as far as images are concerned."""

    names: Callable[[], Sequence[str]]  # those that take part in the choice and that the host has something of
    load: Callable[[str], Backend]  # raises BackendUnavailable, UnknownKey
    probe: Callable[[str], Awaitable[Fingerprint | None]]  # None: it is not ready


class ImageKeepers:
    """Those of one engine. `in_use` tells the directories and digests of images that sandboxes need."""

    def __init__(self, parts: Parts, choice: Choice, unpack: Unpack, in_use: Callable[[], Awaitable[Collection[str]]]) -> None:
        self._parts = parts
        self._choice = choice
        self._unpack = unpack
        self._in_use = in_use
        self._told: set[str] = set()  # engines that were given the user's logins

    @cached_property
    def store(self) -> OwnImages:
        """Agentkernel's own; raises Unsupported where there is none."""
        parts = self._parts
        if parts.images.library is None:
            raise Unsupported("there is no store of images here")
        directory = f"{parts.data_directory}/{IMAGES}"
        return parts.images.library(directory, unpack=self._unpack, environment=parts.environment, home=parts.home, in_use=self._in_use)

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Ends work on an image that takes longer than the user's settings say; raises ImageFailed then, and InvalidInput for those."""
        limit_s = self._limits.work_s
        try:
            async with asyncio.timeout(limit_s or None) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            hint = "what has come is kept: begin it again; images.timeout in the configuration says how long it may take"
            raise ImageFailed(f"it took longer than {format_duration(limit_s)}", hint=hint) from None

    @cached_property
    def _limits(self) -> ImageLimits:
        return self._parts.images.limits()

    async def of(self, name: str) -> ImageKeeper:
        """Who keeps the images of a backend; an empty name is the store. Raises BackendUnavailable, UnknownKey."""
        if not name:
            return self.store
        backend = self._choice.load(name)
        if not isinstance(backend, KeepsImages):
            return self.store
        if await self._choice.probe(name) is None:
            raise BackendUnavailable(f"backend {name!r} cannot run here", hint="`agentkernel doctor` says why")
        return self.of_backend(backend)

    def of_backend(self, backend: Backend) -> ImageKeeper:
        """Who keeps its images."""
        if not isinstance(backend, KeepsImages):
            return self.store
        keeper = backend.keeper
        logins = self._parts.images.logins
        if logins is not None and backend.name not in self._told and isinstance(keeper, TakesLogins):
            keeper.use_logins(logins)
        self._told.add(backend.name)
        return keeper

    async def holders(self, reference: str, asked: str | None) -> dict[str, Image]:
        """The image as each backend has it already, by the backend's name; of the one that was asked for alone, if one was."""
        if asked is not None:
            image = await (await self.of(asked)).find(reference)
            return {} if image is None else {asked: image}
        engines = [name for name in self._choice.names() if self._is_engine(name)]
        stored, *found = await asyncio.gather(self._find("", reference), *(self._find(name, reference) for name in engines))
        others = [name for name in self._choice.names() if name not in engines]
        held = {} if stored is None else dict.fromkeys(others, stored)
        return held | {name: image for name, image in zip(engines, found, strict=True) if image is not None}

    async def records(self) -> list[ImageRecord]:
        """All images: the store's, then those of every engine that answers."""
        engines = [name for name in self._choice.names() if self._is_engine(name)]
        stored, *listed = await asyncio.gather(self.store.images(), *(self._listed(name) for name in engines))
        return [*stored, *(record for records in listed for record in records)]

    def close(self) -> None:
        """Lets go of the store."""
        if "store" in self.__dict__:  # made when it was first needed
            self.store.close()

    def _is_engine(self, name: str) -> bool:
        try:
            return isinstance(self._choice.load(name), KeepsImages)
        except BackendUnavailable:
            return False

    async def _find(self, name: str, reference: str) -> Image | None:
        """None also for one that cannot be asked: it is not to be chosen for having an image."""
        try:
            return await (await self.of(name)).find(reference)
        except AgentKernelError:
            return None

    async def _listed(self, name: str) -> Sequence[ImageRecord]:
        """Nothing of an engine that does not answer in time; who names it is told why.

        Whether sandboxes could be made with it is not probed: that takes longer than all else.
        """
        try:
            async with asyncio.timeout(LIST_S):
                return await self.of_backend(self._choice.load(name)).images()
        except (AgentKernelError, TimeoutError):
            return ()
