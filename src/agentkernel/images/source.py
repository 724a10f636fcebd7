"""What images are taken from: a registry, or what `docker save` and its like have written."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agentkernel.images.manifest import Descriptor
    from agentkernel.images.transfers import Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A manifest or index as it came: its bytes are what its digest is of."""

    data: bytes
    media_type: str = ""  # as it was served; may be empty


class Source(Protocol):
    """Has one image, for one platform or several."""

    async def document(self, asked: str) -> Document:
        """The manifest or index of this tag or digest; raises NotFound, Refused, ImageFailed. Whoever asks by digest verifies it."""
        ...

    def blob(self, descriptor: Descriptor, offset: int) -> AbstractAsyncContextManager[Transfer]:
        """Begins a transfer; see `images.transfers.Fetch`."""
        ...
