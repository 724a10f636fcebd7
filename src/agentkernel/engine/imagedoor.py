"""The operations on images: who may do them, who keeps the image, what the audit trail tells of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from agentkernel.config.directories import IMAGES
from agentkernel.engine import access
from agentkernel.engine.audit import Subject
from agentkernel.engine.confine import check_image_work
from agentkernel.engine.imagejobs import ImageJobs
from agentkernel.engine.parts import BuildPlace
from agentkernel.engine.surroundings import taken_up
from agentkernel.errors import Conflict, ImageFailed, InvalidInput, NotFound, Unsupported
from agentkernel.model.image import Image, ImageProgress, ImageRecord, ImageWork, ImageWorkKind

if TYPE_CHECKING:
    from agentkernel.abc import Caller
    from agentkernel.abc_images import ImageKeeper, Report
    from agentkernel.engine.core import Core
    from agentkernel.model.spec import SandboxSpec

_KINDS = {ImageWorkKind.PULL: "image.pulled", ImageWorkKind.IMPORT: "image.imported", ImageWorkKind.BUILD: "image.built"}


class ImageDoor:
    """Those of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.jobs = ImageJobs()

    async def begin(self, caller: Caller, work: ImageWork) -> str:
        """See `abc.Kernel`."""
        with self._core.audit.failures(_KINDS[work.kind], Subject(caller, backend=work.backend)):
            access.require(caller, "image_begin")
            check_image_work(caller, work)
            reference = self._core.parts.images.canonical(work.reference)
            work = self._checked(work)
            keeper = await self._core.granting.images.of(work.backend)
            return self.jobs.begin(caller, partial(self._done, caller, work, reference, keeper))

    def follow(self, caller: Caller, job_id: str, after: int, *, follow: bool) -> AsyncIterator[ImageProgress]:
        """See `abc.Kernel`."""
        access.require(caller, "image_follow")
        return self.jobs.follow(caller, job_id, after, follow=follow)

    async def images(self, caller: Caller, backend: str) -> Sequence[ImageRecord]:
        """See `abc.Kernel`."""
        access.require(caller, "images")
        keepers = self._core.granting.images
        return await (await keepers.of(backend)).images() if backend else await keepers.records()

    async def remove(self, caller: Caller, text: str, backend: str) -> None:
        """See `abc.Kernel`."""
        core, subject = self._core, Subject(caller, backend=backend)
        with core.audit.failures("image.removed", subject):
            access.require(caller, "image_remove")
            reference = core.parts.images.canonical(text)
            await core.operations.finish(self._removed(reference, text, backend))
        core.audit.append(core.audit.event("image.removed", caller, details=_details(reference, backend)))

    async def prune(self, caller: Caller, unused_for_s: float, backend: str) -> Sequence[str]:
        """See `abc.Kernel`."""
        core = self._core
        with core.audit.failures("image.pruned", Subject(caller, backend=backend)):
            access.require(caller, "image_prune")
            if not unused_for_s >= 0:
                raise InvalidInput("images cannot be unused for less than no time")
            keeper = await core.granting.images.of(backend)
            in_use = sorted(await core.images_in_use())
            lines = await core.operations.finish(_pruned(keeper, unused_for_s, in_use))
        core.audit.append(core.audit.event("image.pruned", caller, details=(("things", str(len(lines))), ("backend", backend))))
        return lines

    async def _removed(self, reference: str, text: str, backend: str) -> None:
        keepers = self._core.granting.images
        try:
            await self._removed_from(await keepers.of(backend), reference)
        except NotFound as error:
            elsewhere = [] if backend else list(await keepers.holders(reference, None))
            if not elsewhere:
                raise
            hint = f"agentkernel image remove --backend {elsewhere[0]} {text}"
            raise NotFound(f"{error.message}; {elsewhere[0]} has it", hint=hint) from error

    async def _removed_from(self, keeper: ImageKeeper, reference: str) -> None:
        """What nobody has but a warm pool is nobody's use of it."""
        try:
            await keeper.remove_image(reference)
        except Conflict:
            pools, image = self._core.pools, await keeper.find(reference)
            if pools is None or image is None or not await pools.end(lambda spec: _is_made_of(spec, image)):
                raise
            await keeper.remove_image(reference)

    async def _done(self, caller: Caller, work: ImageWork, reference: str, keeper: ImageKeeper, report: Report) -> ImageRecord:
        """Does the work; a failure is told as an event of its kind."""
        trail = self._core.audit
        kind = _KINDS[work.kind]
        image = await trail.told(kind, Subject(caller, backend=work.backend), self._made(work, reference, keeper, report))
        details = (*_details(reference, work.backend), ("digest", image.digest))
        trail.append(trail.event(kind, caller, details=details))
        return await _record(keeper, image, work.backend, self._core.clock())

    async def _made(self, work: ImageWork, reference: str, keeper: ImageKeeper, report: Report) -> Image:
        try:
            async with self._core.granting.images.in_time():
                return await self._make(work, reference, keeper, report)
        except OSError as error:
            raise ImageFailed(f"the host refused it: {error}", hint="is the disk full?") from error

    async def _make(self, work: ImageWork, reference: str, keeper: ImageKeeper, report: Report) -> Image:
        if work.kind is ImageWorkKind.PULL:
            return await keeper.obtain(reference, work.policy, report, platform=work.platform)
        if work.kind is ImageWorkKind.IMPORT:
            return await keeper.import_image(work.path, reference, report)
        parts = self._core.parts
        if parts.images.build is None:
            raise Unsupported("nothing here builds images")
        place = BuildPlace(keeper=keeper, directory=f"{parts.data_directory}/{IMAGES}", environment=parts.environment)
        return await parts.images.build(work, reference, place, report)

    def _checked(self, work: ImageWork) -> ImageWork:
        """The work, whose path leads where it says.

        Raises:
            InvalidInput, NotFound: the path cannot be.
            Refused: what is imported is not to be shown in a sandbox, for which it would be an image as `--image DIRECTORY` is one.
        """
        _require_path(work)
        if work.kind is not ImageWorkKind.IMPORT:
            return work
        return replace(work, path=taken_up(work.path, self._core.parts))


def _require_path(work: ImageWork) -> None:
    if work.kind is ImageWorkKind.PULL:
        return
    if not work.path.startswith("/") or "\0" in work.path:
        raise InvalidInput(f"{work.path!r} is not an absolute path of the host")
    if work.kind is ImageWorkKind.BUILD and not os.path.isdir(work.path):
        raise NotFound(f"there is no directory {work.path!r}", hint="a build takes the directory that the Dockerfile is in")
    if not os.path.exists(work.path):
        raise NotFound(f"there is no {work.path!r}", hint="an archive of an image or of a root file system, or a directory")


async def _record(keeper: ImageKeeper, image: Image, backend: str, now: float) -> ImageRecord:
    """The image as `images` shows it."""
    for record in await keeper.images():
        if record.reference == image.reference:
            return record
    return ImageRecord(reference=image.reference, digest=image.digest, size_bytes=0, obtained_at=now, backend=backend)


def _is_made_of(spec: SandboxSpec, image: Image) -> bool:
    return bool(spec.root.digest) and spec.root.digest == image.digest


async def _pruned(keeper: ImageKeeper, unused_for_s: float, in_use: Sequence[str]) -> Sequence[str]:
    return tuple(await keeper.prune_images(unused_for_s, in_use))


def _details(reference: str, backend: str) -> tuple[tuple[str, str], ...]:
    return (("image", reference), ("backend", backend or "store"))
