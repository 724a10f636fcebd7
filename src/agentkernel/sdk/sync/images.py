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

    `progress` is called with every step of what is done, in a thread of the client's; it must not use the client.
    """

    def __init__(self, portal: Portal, images: AsyncImages) -> None:
        self._portal = portal
        self._async = images

    def pull(self, name: str, *, platform: str = "", backend: str = "", progress: Watch | None = None) -> ImageRecord:
        """Fetches an image; raises InvalidInput, NotFound, Refused (other credentials), ImageFailed."""
        return self._portal.call(lambda: self._async.pull(name, platform=platform, backend=backend, progress=progress))

    def import_from(self, path: str | os.PathLike[str], name: str, *, backend: str = "", progress: Watch | None = None) -> ImageRecord:
        """Takes up an archive or a directory of the host; raises InvalidInput, NotFound."""
        return self._portal.call(lambda: self._async.import_from(path, name, backend=backend, progress=progress))

    def build(
        self, context: str | os.PathLike[str], name: str, *, progress: Watch | None = None, **options: Unpack[BuildOptions]
    ) -> ImageRecord:
        """Builds a Dockerfile's image; raises BackendUnavailable, ImageFailed, NotFound."""
        return self._portal.call(lambda: self._async.build(context, name, progress=progress, **options))

    def list(self, *, backend: str = "") -> Sequence[ImageRecord]:
        """All images, or those of one backend."""
        return self._portal.call(lambda: self._async.list(backend=backend))

    def remove(self, name: str, *, backend: str = "") -> None:
        """Forgets an image; raises NotFound, and Conflict when a sandbox uses it."""
        self._portal.call(lambda: self._async.remove(name, backend=backend))

    def prune(self, *, unused: float | str = "7d", backend: str = "") -> Sequence[str]:
        """Removes what no sandbox needs and nobody has used for so long; one line for each thing."""
        return self._portal.call(lambda: self._async.prune(unused=unused, backend=backend))
