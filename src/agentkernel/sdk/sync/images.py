"""Images, for threads: the twin of `sdk.aio.images`, whose docstrings tell more."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Unpack

from agentkernel.model.image import ImageRecord
from agentkernel.sdk.aio.images import AsyncImages, Watch
from agentkernel.sdk.options import BuildOptions
from agentkernel.sdk.sync.portal import Portal


class Images:
    """Those of agentkernel's own store, which serves every backend but the engines of containers; with `backend` those of such an engine.

    `progress` is called with every step of what is done, in a thread of the client's; it must not use the client. Every call
    raises InvalidInput for what is no name or no time, and UnknownKey for what is no backend.
    """

    def __init__(self, portal: Portal, images: AsyncImages) -> None:
        self._portal = portal
        self._async = images

    def pull(self, name: str, *, platform: str = "", backend: str = "", progress: Watch | None = None) -> ImageRecord:
        """Fetches an image from its registry, unless what the name stands for there is here already.

        Raises:
            InvalidInput: that is no name.
            NotFound: the registry does not have it, or not for the platform (`linux/arm64`; without one this host's).
            Refused: it wants other credentials than those of `docker login` or `podman login`.
            ImageFailed: it cannot be reached, or sends what its digests do not say.
        """
        return self._portal.call(lambda: self._async.pull(name, platform=platform, backend=backend, progress=progress))

    def import_from(self, path: str | os.PathLike[str], name: str, *, backend: str = "", progress: Watch | None = None) -> ImageRecord:
        """Takes up an archive (of a file system, of `docker save`, an OCI layout) or a directory of the host as an image of that name.

        Raises InvalidInput for what is no image, NotFound.
        """
        return self._portal.call(lambda: self._async.import_from(path, name, backend=backend, progress=progress))

    def build(
        self, context: str | os.PathLike[str], name: str, *, progress: Watch | None = None, **options: Unpack[BuildOptions]
    ) -> ImageRecord:
        """Builds a Dockerfile's image by docker, podman or buildah; what was built of the same before is found again.

        Raises:
            BackendUnavailable: no builder is here.
            ImageFailed: the build failed; its lines went to `progress`.
            NotFound: there is no such Dockerfile.
        """
        return self._portal.call(lambda: self._async.build(context, name, progress=progress, **options))

    def list(self, *, backend: str = "") -> Sequence[ImageRecord]:
        """All images: agentkernel's own and those of the engines that are ready; or those of one backend."""
        return self._portal.call(lambda: self._async.list(backend=backend))

    def remove(self, name: str, *, backend: str = "") -> None:
        """Forgets an image; raises NotFound, and Conflict when a sandbox uses it."""
        self._portal.call(lambda: self._async.remove(name, backend=backend))

    def prune(self, *, unused: float | str = "7d", backend: str = "") -> Sequence[str]:
        """Removes what no sandbox needs and nobody has used for so long (seconds, or `7d`); one line for each thing."""
        return self._portal.call(lambda: self._async.prune(unused=unused, backend=backend))
