"""The images that sandboxes are made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Unpack

from agentkernel.abc import Caller, Kernel
from agentkernel.client.imagework import worked
from agentkernel.config.options import seconds
from agentkernel.model.image import ImageProgress, ImageRecord, ImageWork, ImageWorkKind
from agentkernel.sdk.given import text
from agentkernel.sdk.options import BuildOptions, build_of, import_of

Watch = Callable[[ImageProgress], None]


class AsyncImages:
    """Those of agentkernel's own store, which serves every backend but the engines of containers; with `backend` those of such an engine.

    Work on an image goes on when what waits for it is cancelled. `progress` is called with every step of it, on the event loop. Every call
    raises InvalidInput for what is no name or no time, and UnknownKey for what is no backend.
    """

    def __init__(self, kernel: Callable[[], Kernel], caller: Caller) -> None:
        self._kernel = kernel
        self._caller = caller

    async def pull(self, name: str, *, platform: str = "", backend: str = "", progress: Watch | None = None) -> ImageRecord:
        """Fetches an image from its registry, unless what the name stands for there is here already.

        Raises:
            InvalidInput: that is no name.
            NotFound: the registry does not have it, or not for the platform (`linux/arm64`; without one this host's).
            Refused: it wants other credentials than those of `docker login` or `podman login`.
            ImageFailed: it cannot be reached, or sends what its digests do not say.
        """
        work = ImageWork(kind=ImageWorkKind.PULL, reference=text("name", name), platform=platform, backend=backend)
        return await self._worked(work, progress)

    async def import_from(
        self, path: str | os.PathLike[str], name: str, *, backend: str = "", progress: Watch | None = None
    ) -> ImageRecord:
        """Takes up an archive (of a file system, of `docker save`, an OCI layout) or a directory of the host as an image of that name.

        Raises InvalidInput for what is no image, NotFound.
        """
        return await self._worked(import_of(path, name, backend), progress)

    async def build(
        self, context: str | os.PathLike[str], name: str, *, progress: Watch | None = None, **options: Unpack[BuildOptions]
    ) -> ImageRecord:
        """Builds a Dockerfile's image by docker, podman or buildah; what was built of the same before is found again.

        Raises:
            BackendUnavailable: no builder is here.
            ImageFailed: the build failed; its lines went to `progress`.
            NotFound: there is no such Dockerfile.
        """
        return await self._worked(build_of(context, name, options), progress)

    async def list(self, *, backend: str = "") -> Sequence[ImageRecord]:
        """All images: agentkernel's own and those of the engines that are ready; or those of one backend."""
        return await self._kernel().images(self._caller, backend)

    async def remove(self, name: str, *, backend: str = "") -> None:
        """Forgets an image; raises NotFound, and Conflict when a sandbox uses it."""
        await self._kernel().image_remove(self._caller, text("name", name), backend)

    async def prune(self, *, unused: float | str = "7d", backend: str = "") -> Sequence[str]:
        """Removes what no sandbox needs and nobody has used for so long (seconds, or `7d`); one line for each thing."""
        return await self._kernel().image_prune(self._caller, seconds("unused", unused) or 0.0, backend)

    async def _worked(self, work: ImageWork, progress: Watch | None) -> ImageRecord:
        return await worked(self._kernel(), self._caller, work, progress or _unwatched)


def _unwatched(_: ImageProgress) -> None:
    """Nobody watches."""
