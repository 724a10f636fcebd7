"""The facts of the host that a decision needs, gathered by the engine beforehand, so that `decide` stays pure."""

from __future__ import annotations

from dataclasses import dataclass

from agentkernel.model.image import Image
from agentkernel.model.spec import RootFilesystem


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageName:
    """The name of an image: as it was written, which is what people are shown, and in its one form."""

    text: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Facts about the caller's host. All paths are absolute with symlinks resolved, and so are those of the request."""

    home: str
    uid: int
    own_directories: tuple[str, ...] = ()  # agentkernel's: state and images, which are believed by who finds them there
    root: RootFilesystem | None = None  # the host root that holds the request's command; None: no such command here
    image_directory: str | None = None  # the request's image, when it is a directory
    image_is_tar: bool = False  # the request's image is an archive to unpack
    image_name: ImageName | None = None  # the request's image, when it is a name
    image_holders: frozenset[str] = frozenset()  # backends that have it already, or for which it is here in agentkernel's own store
    image: Image | None = None  # the image, once it is here: of the name that the request, or the decision before, came to
    command_image: ImageName | None = None  # what the language table has for the command
    picked_image: ImageName | None = None  # what it has for the command, else for the project, else where nothing tells the language
    cwd_is_project: bool = False  # the working directory holds a file of the detection table
    named_files: tuple[str, ...] = ()  # files named in argv that exist beneath cwd, relative to it
    protected_present: tuple[str, ...] = ()  # those of deny.protected_paths() that exist in the workspace's source
    protected_in_mounts: tuple[tuple[str, str], ...] = ()  # (source of a writable mount, protected path in it, relative)
    credentials_found: tuple[tuple[str, str], ...] = ()  # (directory to be shown, what deny.holds_credentials found in it)
    certificates: str = ""  # the file of certificates that this host trusts
