"""The contracts of images: where they come from, and who keeps them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from agentkernel.model.image import Image, ImageProgress, ImageRecord, PullPolicy

Report = Callable[["ImageProgress"], None]  # must not raise; called from the event loop
Logins = Callable[[str], Awaitable[tuple[str, str, str] | None]]  # canonical reference -> user name, password, identity token


class ImageKeeper(Protocol):
    """Has images by name. References are canonical (`images.reference`), platforms as `linux/amd64`, empty: this host's."""

    async def obtain(self, reference: str, policy: PullPolicy, report: Report, *, platform: str = "") -> Image:
        """The image, fetched first where the policy says so; concurrent callers fetch it once.

        Raises:
            NotFound: the registry does not have it, or with NEVER it is not here.
            Refused: the registry wants other credentials.
            ImageFailed: it cannot be reached, or what it sends is not what its digests say.
        """
        ...

    async def find(self, reference: str) -> Image | None:
        """The image, if it is here."""
        ...

    async def images(self) -> Sequence[ImageRecord]:
        """All that are here, by reference."""
        ...

    async def import_image(self, path: str, reference: str, report: Report) -> Image:
        """Takes up an archive (of a file system, of `docker save`, an OCI layout) or a directory; raises InvalidInput, NotFound."""
        ...

    async def remove_image(self, reference: str) -> None:
        """Forgets the name, and what no other name and no sandbox needs; raises NotFound, Conflict (a sandbox uses it)."""
        ...

    async def prune_images(self, unused_for_s: float, in_use: Sequence[str]) -> Sequence[str]:
        """Removes what was not used for so long and whose digest or directory is not among `in_use`; returns what went, as lines."""
        ...


@runtime_checkable
class KeepsImages(Protocol):
    """Optional power of a backend: it keeps images itself (container engines). Backends without it get unpacked directories."""

    @property
    def keeper(self) -> ImageKeeper:
        """Its images."""
        ...


@runtime_checkable
class TakesLogins(Protocol):
    """Optional power of a keeper that is a program of its own: it is told what the user has logged in with at registries."""

    def use_logins(self, logins: Logins) -> None:
        """Without it, it fetches as its own configuration says."""
        ...
