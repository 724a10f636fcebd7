"""The root file systems that a request may come to: the first that a backend can provide is taken."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from agentkernel.errors import CommandNotFound, InvalidInput, NotFound, Unsupported
from agentkernel.model.isolation import Feature, Fingerprint, Support
from agentkernel.model.request import Notice, SandboxRequest
from agentkernel.model.spec import RootFilesystem, RootKind, User
from agentkernel.policy.exposure import require_shown
from agentkernel.policy.image import image_root, image_user
from agentkernel.policy.surroundings import ImageName, Surroundings

PICKED: Final = "image-picked"  # the code of the notice that the host's own system could not be shown
OF_COMMAND: Final = "image-of-command"  # and of the one that it does not have the command
_HINT: Final = "name it with --image: that of a registry, an unpacked directory, or an archive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A root file system, and what comes with it."""

    filesystem: RootFilesystem
    tar: str | None = None  # it must first be unpacked from this file
    user: User | None = None  # who the image says
    notices: tuple[Notice, ...] = ()


def roots(request: SandboxRequest, surroundings: Surroundings, fingerprints: Sequence[Fingerprint]) -> tuple[Root, ...]:
    """What may be the root, the best first.

    The request's image; without one the host's own system, where it has the command, and then the image that the language table has.

    Raises:
        InvalidInput: an entrypoint without an image.
        NotFound: the image is neither a name nor anything of this host.
        CommandNotFound: the host does not have the command, and nothing tells which image would.
    """
    if request.image is not None:
        return (_asked(request, surroundings),)
    if request.entrypoint is not None:
        raise InvalidInput("an entrypoint stands in place of an image's, and there is no image", hint="name the image with --image")
    picked = surroundings.picked_image
    if surroundings.root is not None:
        fallback = () if picked is None else (_picked(request, surroundings, picked, _without_host(picked)),)
        return (Root(filesystem=surroundings.root), *fallback)
    if surroundings.command_image is not None:
        return (_picked(request, surroundings, surroundings.command_image, _without_command(request, surroundings.command_image)),)
    if picked is not None and not _shows_host(request, fingerprints):
        return (_picked(request, surroundings, picked, _without_host(picked)),)
    if not request.argv:
        raise Unsupported("this host offers no root file system of its own", hint=_HINT)
    name = os.fsdecode(request.argv[0])
    raise CommandNotFound(f"there is no command {name!r} on this host", hint=f"check the name; or where an image has it, {_HINT}")


def _asked(request: SandboxRequest, surroundings: Surroundings) -> Root:
    image = request.image or ""
    if surroundings.image_name is not None:
        return _named(request, surroundings, surroundings.image_name)
    label = image.rstrip("/").rsplit("/", 1)[-1] or image
    if surroundings.image_is_tar:
        require_shown(image, surroundings)
    if surroundings.image is not None:  # an archive that its backend has taken up
        return Root(filesystem=image_root(surroundings.image, label, request.entrypoint))
    if surroundings.image_is_tar:
        return Root(filesystem=RootFilesystem(kind=RootKind.DIRECTORY, label=label, entrypoint=request.entrypoint or ()), tar=image)
    if surroundings.image_directory is None:
        raise NotFound(f"there is no image {image!r}: neither a directory nor a .tar archive", hint=_HINT)
    directory = require_shown(surroundings.image_directory, surroundings)
    entrypoint = request.entrypoint or ()
    return Root(filesystem=RootFilesystem(kind=RootKind.DIRECTORY, directory=directory, label=label, entrypoint=entrypoint))


def _named(request: SandboxRequest, surroundings: Surroundings, name: ImageName) -> Root:
    """An image that was asked for by its name; what it says of its commands is known once it is here."""
    if surroundings.image is None:
        return Root(filesystem=RootFilesystem(kind=RootKind.IMAGE, reference=name.reference, label=name.text))
    user, notices = image_user(surroundings.image, name.text) if request.user is None else (None, ())
    return Root(filesystem=image_root(surroundings.image, name.text, request.entrypoint), user=user, notices=notices)


def _picked(request: SandboxRequest, surroundings: Surroundings, name: ImageName, why: Notice) -> Root:
    """An image that nobody asked for. What was typed is a whole command then, before which no ENTRYPOINT belongs."""
    root = _named(replace(request, entrypoint=()), surroundings, name)
    return replace(root, notices=(*root.notices, why))


def _shows_host(request: SandboxRequest, fingerprints: Sequence[Fingerprint]) -> bool:
    """Whether a backend that may be taken can show the host's own system."""
    return any(
        each.ready and each.support(Feature.HOST_ROOT) is not Support.REFUSED
        for each in fingerprints
        if request.backend is None or each.backend == request.backend
    )


def _without_command(request: SandboxRequest, name: ImageName) -> Notice:
    message = f"there is no command {os.fsdecode(request.argv[0])!r} on this host: the sandbox is made of the image {name.text}"
    return Notice(code=OF_COMMAND, message=message, hint="--image names another one")


def _without_host(name: ImageName) -> Notice:
    message = f"the backend cannot show this host's own system: the sandbox is made of the image {name.text}"
    return Notice(code=PICKED, message=message, hint="--image names another one")
