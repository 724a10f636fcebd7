"""Names that users choose: sandboxes, environment variables, paths inside; and what to suggest for a wrong one."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from difflib import get_close_matches

from agentkernel.errors import InvalidInput

MAX_NAME = 63  # a DNS label: the name serves as host and pod name
MAX_PATH_BYTES = 4095  # PATH_MAX without its NUL
# A file of such a name is an image to unpack; what its bytes are, and whether they can be read, the unpacker finds out.
ARCHIVE_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

_NAME_CHARACTER = r"[A-Za-z0-9_-]"
_NAME_HINT = "use 1 to 63 letters, digits, hyphens and underscores; start and end with a letter or digit"
_SANDBOX_ID = r"[0-9a-f]{16}"
_DOUBLED = r"[-_]{2}"


def validate_name(name: str) -> str:
    """Returns the sandbox name, or raises InvalidInput that says which rule it breaks."""
    if not name:
        raise InvalidInput("Sandbox name cannot be empty", hint=_NAME_HINT)
    if len(name) > MAX_NAME:
        raise InvalidInput(f"Sandbox name too long (max {MAX_NAME} characters)", hint=_NAME_HINT)
    for character in name:
        if not re.fullmatch(_NAME_CHARACTER, character):
            raise InvalidInput(f"Sandbox name contains invalid character {character!r}", hint=_NAME_HINT)
    for place, character in (("start", name[0]), ("end", name[-1])):
        if character in "-_":
            raise InvalidInput(f"Sandbox name must {place} with a letter or number", hint=_NAME_HINT)
    if re.search(_DOUBLED, name):
        raise InvalidInput("Sandbox name cannot contain consecutive hyphens or underscores", hint=_NAME_HINT)
    if is_sandbox_id(name):
        raise InvalidInput(f"Sandbox name looks like an id: {name!r}", hint="use a name that is not 16 hexadecimal digits")
    return name


def is_sandbox_id(text: str) -> bool:
    """Whether it has the form of a sandbox's id, 16 hexadecimal digits, which no name has."""
    return re.fullmatch(_SANDBOX_ID, text) is not None


def random_name(prefix: str = "run") -> str:
    """`run-` and 8 random hexadecimal digits."""
    return f"{prefix}-{os.urandom(4).hex()}"


def suggest(word: str, choices: Iterable[str]) -> str:
    """A hint for an unknown `word`: the choice that ends in it after a dot, or the nearest one, else all of them."""
    known = sorted(choices)
    short_for = [each for each in known if word and each.endswith(f".{word}")]
    near = short_for or get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choose one of: {', '.join(known)}" if known else ""


def validate_environment_name(name: str) -> str:
    """Returns the name of an environment variable. Wider than POSIX: npm reads `npm_config_//registry.example/:_authToken`."""
    if not name or "=" in name or not name.isascii() or not name.isprintable() or " " in name:
        raise InvalidInput(f"{name!r} is not a name of an environment variable", hint="write NAME=VALUE, with a name like MY_SETTING")
    return name


def validate_environment_value(name: str, value: str) -> str:
    """Returns the value; the kernel ends it at the first NUL, so there must be none."""
    if "\0" in value:
        raise InvalidInput(f"the value of the environment variable {name!r} contains a NUL byte", hint="remove the NUL byte")
    return value


def validate_inside_path(path: str) -> str:
    """Returns an absolute path inside a sandbox, without doubled or trailing slashes; `..` is refused, not resolved."""
    if "\0" in path:
        raise InvalidInput(f"the path {path!r} contains a NUL byte", hint="remove the NUL byte")
    if not path.startswith("/"):
        raise InvalidInput(f"Sandbox path must be absolute, got: {path!r}", hint="start it with /, for example /workspace/file")
    if ".." in path.split("/"):
        raise InvalidInput(f"Path traversal not allowed: {path!r}", hint="write the path without ..")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        raise InvalidInput(f"the path is longer than {MAX_PATH_BYTES} bytes: {path[:40]!r}...", hint="use a shorter path")
    return "/" + posixpath.normpath(path).lstrip("/")
