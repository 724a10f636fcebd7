"""Images for engines on scripted backends: a store, and an engine that keeps its own, both fed by one registry that is a table."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unit.engine_world import NATIVE, ScriptedBackend, World

from agentkernel.abc_images import Logins, Report
from agentkernel.errors import AgentKernelError, Conflict, NotFound
from agentkernel.model.image import Image, ImageConfig, ImageProgress, ImageRecord, ImageStage, PullPolicy
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Support

REFUSED = Provision(support=Support.REFUSED)


@dataclass
class Registry:
    """What can be fetched, by canonical reference."""

    images: dict[str, Image] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # nothing comes before it is set
    failure: BaseException | None = None

    def add(self, text: str, number: int = 1, **config: Any) -> Image:
        """An image under that name."""
        found = Image(reference=f"registry/{text}", digest=f"sha256:{number:064x}", config=ImageConfig(**config))
        self.images[found.reference] = found
        return found


@dataclass
class Shelf:
    """Implements `abc_images.ImageKeeper` and `parts.OwnImages`; `base` is where it unpacks, empty for an engine."""

    registry: Registry
    base: str = ""
    images_here: dict[str, Image] = field(default_factory=dict)
    asked: list[tuple[str, PullPolicy, str]] = field(default_factory=list)
    found: int = 0
    logins: Logins | None = None
    in_use: Any = None
    closed: bool = False
    kept: set[str] = field(default_factory=set)
    broken: AgentKernelError | None = None
    listing: Callable[[], Awaitable[object]] | None = None  # what a list waits for

    async def obtain(self, reference: str, policy: PullPolicy, report: Report, *, platform: str = "") -> Image:
        self.asked.append((reference, policy, platform))
        if policy is not PullPolicy.ALWAYS and reference in self.images_here:
            return self.images_here[reference]
        report(ImageProgress(stage=ImageStage.RESOLVING, item=reference))
        for done in range(0, 101, 10):
            report(ImageProgress(stage=ImageStage.DOWNLOADING, item="layer", done_bytes=done, total_bytes=100))
        await self.registry.gate.wait()
        if self.registry.failure is not None:
            raise self.registry.failure
        if reference not in self.registry.images:
            raise NotFound(f"{reference} is in no registry", hint="check the name")
        return self.put(self.registry.images[reference])

    def put(self, image: Image) -> Image:
        """It is here now."""
        kept = replace(image, directory=f"{self.base}/{image.digest[-4:]}") if self.base else image
        self.images_here[image.reference] = kept
        return kept

    async def find(self, reference: str) -> Image | None:
        self.found += 1
        if self.broken is not None:
            raise self.broken
        return self.images_here.get(reference)

    async def images(self) -> Sequence[ImageRecord]:
        if self.listing is not None:
            await self.listing()
        if self.broken is not None:
            raise self.broken
        backend = "" if self.base else "shipyard"
        return [
            ImageRecord(reference=each.reference, digest=each.digest, size_bytes=100, obtained_at=1.0, backend=backend)
            for each in self.images_here.values()
        ]

    async def import_image(self, path: str, reference: str, report: Report) -> Image:
        return self.put(Image(reference=reference, digest=f"sha256:{len(path):064x}"))

    async def remove_image(self, reference: str) -> None:
        image = self.images_here.get(reference)
        if image is None:
            raise NotFound(f"there is no image {reference!r} here")
        if self.in_use is not None and {image.digest, image.directory} & set(await self.in_use()):
            raise Conflict("sandboxes use it")
        del self.images_here[reference]

    async def prune_images(self, unused_for_s: float, in_use: Sequence[str]) -> Sequence[str]:
        gone = [each for each in self.images_here.values() if not {each.digest, each.directory} & set(in_use)]
        for each in gone:
            del self.images_here[each.reference]
        return [each.reference for each in gone]

    def use_logins(self, logins: Logins) -> None:
        self.logins = logins

    def keep(self, digests: Collection[str]) -> None:
        self.kept |= set(digests)

    def close(self) -> None:
        self.closed = True


class EngineBackend(ScriptedBackend):
    """Implements `abc_images.KeepsImages` beside `abc.Backend`."""

    name = "shipyard"

    def __init__(self, world: World, keeper: Shelf) -> None:
        super().__init__(world)
        self.keeper = keeper

    async def probe(self) -> Fingerprint:
        features = dict.fromkeys(Feature, NATIVE) | dict.fromkeys((Feature.HOST_ROOT, Feature.IMAGE_DIRECTORY), REFUSED)
        return Fingerprint(backend=self.name, ready=self.world.backend_is_there, level=IsolationLevel.CONTAINER, features=features)
