"""What assembly hands to the engine: the engine names no backend and no image source itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from agentkernel.abc import Backend, Store
from agentkernel.abc_images import ImageKeeper
from agentkernel.abc_network import Egress
from agentkernel.engine.admission import Limits
from agentkernel.errors import Unsupported
from agentkernel.model.image import ImageLimits
from agentkernel.model.isolation import Presence
from agentkernel.model.spec import RootFilesystem

if TYPE_CHECKING:
    from agentkernel.abc_images import Logins, Report
    from agentkernel.engine.reserve import PoolSettings
    from agentkernel.model.image import Image, ImageWork
    from agentkernel.policy.addresses import Address, Network


OwnAddresses = Callable[[], "Collection[Address | Network]"]  # of the host, and the networks that it is connected to; raises OSError
MakeAuthority = Callable[[Sequence[str]], tuple[str, dict[str, str]]]  # of hosts: its certificate, and theirs by host


class BackendSource(Protocol):
    """The backends of this installation, loaded when they are needed."""

    def names(self) -> tuple[str, ...]:
        """Those that take part in the choice."""
        ...

    def all_names(self) -> tuple[str, ...]:
        """Those and the ones that other packages add; slower."""
        ...

    def presence(self, name: str) -> Presence:
        """What the host shows of one before it is loaded; quick enough to be asked before every choice."""
        ...

    def load(self, name: str) -> Backend:
        """Imports and makes one.

        Raises:
            UnknownKey: there is none of that name.
            BackendUnavailable: it cannot be imported on this host.
        """
        ...


class HostRoot(Protocol):
    """Finds the allow-list of the host's directories that a command runs on."""

    def __call__(self, *, argv: tuple[bytes, ...], environment: Mapping[str, str], home: str, uid: int) -> RootFilesystem | None:
        """None: the host has no such command."""
        ...


class UnpackArguments(Protocol):
    """The arguments for a Python interpreter that has this package, to unpack archives into a directory."""

    def __call__(self, options: Sequence[str], archives: Sequence[str], destination: str, limit_bytes: int) -> tuple[str, ...]:
        """Paths are as the interpreter sees them."""
        ...


class Unpack(Protocol):
    """Unpacks archives of the host into an empty directory of the host, in a sandbox that sees nothing else."""

    async def __call__(self, options: Sequence[str], archives: Sequence[str], destination: str) -> None:
        """Raises InvalidInput, with what the unpacker said, and SandboxFailed, Unsupported where it could not be run."""
        ...


class OwnImages(ImageKeeper, Protocol):
    """Agentkernel's own store of images, which several processes share."""

    def keep(self, digests: Collection[str]) -> None:
        """Sandboxes of this process need these: until `close` no other process removes them."""
        ...

    def close(self) -> None:
        """No sandbox of this process needs an image any more."""
        ...


class OpenLibrary(Protocol):
    """Makes the store of images; it does nothing before it is asked for something."""

    def __call__(
        self,
        directory: str,
        *,
        unpack: Unpack,
        environment: Mapping[str, str],
        home: str,
        in_use: Callable[[], Awaitable[Collection[str]]],
    ) -> OwnImages:
        """`in_use` tells the directories and digests that sandboxes need."""
        ...


class Build(Protocol):
    """Builds an image of a Dockerfile."""

    async def __call__(self, work: ImageWork, reference: str, place: BuildPlace, report: Report) -> Image:
        """`reference` is canonical.

        Raises:
            BackendUnavailable: no builder is here.
            ImageFailed: the build failed.
            InvalidInput, NotFound: there is no such Dockerfile, or stage.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlace:
    """Where a build leaves its image."""

    keeper: ImageKeeper
    directory: str  # for what is remembered of builds, and for what is passed on from a builder to the keeper
    environment: Mapping[str, str]


def _no_names(text: str) -> str:
    raise Unsupported(f"this engine knows no images by name, such as {text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageParts:
    """The functions of the image packages that the engine uses."""

    host_root: HostRoot
    is_project: Callable[[str, str], bool]  # directory, home
    image_for: Callable[[Sequence[bytes], Iterable[str]], str | None]  # argv, names in the directory -> the image of the language table
    unpack_argv: UnpackArguments
    certificates: Callable[[Mapping[str, str]], str] = lambda _environment: ""  # the file of certificates that a caller trusts
    canonical: Callable[[str], str] = _no_names  # the one form of an image's name; raises InvalidInput
    image_of_language: Callable[[str], str | None] = lambda _language: None
    default_image: Callable[[], str] = lambda: ""  # where nothing tells the language; empty: none
    library: OpenLibrary | None = None  # agentkernel's own store of images; None: there is none
    logins: Logins | None = None  # what the user has logged in with at registries; for engines that fetch by themselves
    build: Build | None = None  # Dockerfiles
    limits: Callable[[], ImageLimits] = ImageLimits  # called once, when an image is first worked on


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything outside itself that an engine needs."""

    backends: BackendSource
    images: ImageParts
    environment: Mapping[str, str]  # of the user that the engine works for
    home: str
    uid: int
    cache_directory: str
    standing: Callable[[], str]  # what a probe's result depends on, as text
    open_store: Callable[[], Store]  # called once, when it is first needed
    data_directory: str  # logs of sandboxes that live on, leases of engines in process
    runtime_directory: str  # logs of sandboxes that do not
    limits: Limits = field(default_factory=Limits)
    images_stored: Callable[[], Collection[str]] = frozenset  # directories and digests that sandboxes of the user's durable store need
    egress: Callable[[], Egress] | None = None  # called once, when a sandbox first connects to something; None: all of that is refused
    own_addresses: OwnAddresses = frozenset  # asked when somebody elsewhere names an address
    make_authority: MakeAuthority = lambda _hosts: ("", {})  # see `egress.authority`
    pool: PoolSettings | None = None  # None: no sandbox is made before it is asked for
