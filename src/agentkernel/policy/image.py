"""What of an image's configuration a sandbox follows: variables, directory, user, first command. Whoever made the image wrote it."""

from __future__ import annotations

from typing import Final

from agentkernel.errors import InvalidInput
from agentkernel.model.image import Image
from agentkernel.model.names import validate_environment_name, validate_inside_path
from agentkernel.model.request import Notice
from agentkernel.model.spec import RootFilesystem, RootKind, User

MAX_ID: Final = 65535  # what an id map of a sandbox covers
MAX_ENVIRONMENT_BYTES: Final = 32 * 1024  # of names and values together: they go with every command
MAX_WORDS_BYTES: Final = 32 * 1024  # of ENTRYPOINT and CMD together
_OWN_USER: Final = "say who the command is with --user: user, root or UID[:GID]"


def image_root(image: Image, label: str, entrypoint: tuple[str, ...] | None) -> RootFilesystem:
    """The root file system of an image that is here; raises InvalidInput for one whose words no command could be given.

    `label` is what people are shown; `entrypoint` stands in place of the image's own, and then the image's command does not count
    (it would be the arguments of another program).
    """
    config = image.config
    variables = _variables(image)
    path = variables.pop("PATH", "")
    first = config.entrypoint if entrypoint is None else entrypoint
    command = config.command if entrypoint is None else ()
    if sum(len(word.encode("utf-8", "surrogateescape")) + 1 for word in (*first, *command)) > MAX_WORDS_BYTES:
        raise InvalidInput(f"the image {label!r} has an ENTRYPOINT and CMD of more than {MAX_WORDS_BYTES} bytes")
    if any("\0" in word for word in (*first, *command)):
        raise InvalidInput(f"the image {label!r} has a NUL in its ENTRYPOINT or CMD")
    return RootFilesystem(
        kind=RootKind.DIRECTORY if image.directory else RootKind.IMAGE,
        directory=image.directory,
        reference=image.reference,
        digest=image.digest,
        entrypoint=first,
        command=command,
        working_directory=validate_inside_path(config.working_directory) if config.working_directory else "",
        label=label,
        path_directories=tuple(dict.fromkeys(each for each in path.split(":") if each.startswith("/"))),
        environment=tuple(sorted(variables.items())),
    )


def image_user(image: Image, label: str) -> tuple[User | None, tuple[Notice, ...]]:
    """The user that an image names, and what to tell about it; None where it names none, or root: what replaces root is policy's to say.

    Raises InvalidInput for a user that nobody knows, or that no sandbox can have.
    """
    name, colon, group = image.config.user.partition(":")
    if not name:
        return None, ()
    known = {each: (uid, gid) for each, uid, gid in image.users}
    uid, gid = _ids(name, known, label)
    if uid == 0:
        return None, ()
    notices: tuple[Notice, ...] = ()
    if group.isascii() and group.isdecimal():
        gid = int(group)
    elif group in known:
        gid = known[group][1]  # a user's own group is nearly always named after it
    elif colon and group:
        message = f"the image's group {group!r} is not looked up: commands run with the group {gid}, which is its user's own"
        notices = (Notice(code="image-group", message=message, hint=_OWN_USER),)
    if max(uid, gid) > MAX_ID:
        raise InvalidInput(f"the image {label!r} runs as {uid}:{gid}, and ids inside go up to {MAX_ID}", hint=_OWN_USER)
    named = next((each for each, ids in known.items() if ids[0] == uid and each.isprintable()), f"uid{uid}")
    return User(uid=uid, gid=gid, name=named), notices


def _ids(name: str, known: dict[str, tuple[int, int]], label: str) -> tuple[int, int]:
    """Uid and gid; a number that the image's passwd has not got a line for has the group of that number, as everywhere here."""
    if name in known:
        return known[name]
    if name == "root":
        return 0, 0
    if not (name.isascii() and name.isdecimal()) or len(name) > 10:
        raise InvalidInput(f"the image {label!r} runs as {name[:80]!r}, whom its /etc/passwd does not name", hint=_OWN_USER)
    uid = int(name)
    return uid, next((ids[1] for ids in known.values() if ids[0] == uid), uid)


def _variables(image: Image) -> dict[str, str]:
    """Those that can be a command's; what cannot, as a name with a blank, no program would find anyway."""
    found: dict[str, str] = {}
    for name, value in image.config.environment:
        try:
            validate_environment_name(name)
        except InvalidInput:
            continue
        if "\0" not in value:
            found[name] = value
    size = sum(len(name) + len(value.encode("utf-8", "surrogateescape")) + 2 for name, value in found.items())
    if size > MAX_ENVIRONMENT_BYTES:
        raise InvalidInput(f"the image sets {size} bytes of variables, of at most {MAX_ENVIRONMENT_BYTES}", hint="use another image")
    return found
