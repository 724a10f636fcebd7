"""Names of images, as docker reads them: `alpine`, `ghcr.io/owner/name:tag`, `localhost:5000/name@sha256:...`.

    reference  = [registry "/"] repository [":" tag] ["@" digest]

What stands before the first slash is a registry if it holds a dot or a colon, or is `localhost`; without one it is Docker Hub, whose
official images are in `library/`. Without tag and digest the tag is `latest`. The grammar is that of the OCI distribution specification.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentkernel.errors import InvalidInput

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"
MAX_NAME_BYTES = 255  # registry and repository together
MAX_TEXT_BYTES = 512

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IDENTIFIER = re.compile(r"[0-9a-f]{64}")
_HINT = "write it as alpine:3.20, ghcr.io/owner/name:tag, localhost:5000/name, or name@sha256:..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The name of an image, whole. `str` of it is its canonical form; a name with a digest stands for that image for ever."""

    registry: str  # docker.io, ghcr.io, localhost:5000; in small letters
    repository: str  # library/alpine
    tag: str = ""  # empty only where there is a digest
    digest: str = ""  # sha256:<64 hexadecimal digits>

    def __str__(self) -> str:
        tag, digest = f":{self.tag}" if self.tag else "", f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def asked(self) -> str:
        """What a registry is asked for: the digest, else the tag."""
        return self.digest or self.tag

    @property
    def short(self) -> str:
        """As people write it: without what is the default anyway."""
        namespace, _, name = self.repository.partition("/")
        if self.registry != DOCKER_HUB or "." in namespace or namespace == "localhost":
            return str(self)
        is_official = namespace == "library" and "/" not in name
        return str(self).removeprefix(f"{DOCKER_HUB}/{'library/' if is_official else ''}")


def parse(text: str) -> Reference:
    """Reads a name as a user writes it; raises InvalidInput."""
    if not text or len(text) > MAX_TEXT_BYTES or not text.isascii():
        raise _invalid(text, "it is empty" if not text else "it is too long, or not ASCII")
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _invalid(text, "its digest is not sha256: and 64 hexadecimal digits in small letters")
    name, tag = _split_tag(name)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _invalid(text, "its tag may hold letters, digits, _ . and -, at most 128, and begins with none of the last two")
    registry, repository = _split_registry(name)
    if not _REGISTRY.fullmatch(registry) or _port(registry) > 65535:
        raise _invalid(text, f"{registry!r} is no registry")
    if not _REPOSITORY.fullmatch(repository):
        raise _invalid(text, "names are of small letters and digits, with single . _ - or __ in between")
    if _IDENTIFIER.fullmatch(name):
        raise _invalid(text, "64 hexadecimal digits are the id of an image, not its name")
    if len(registry) + 1 + len(repository) > MAX_NAME_BYTES:
        raise _invalid(text, f"it has more than {MAX_NAME_BYTES} characters before its tag")
    return Reference(registry=registry, repository=repository, tag=tag or ("" if digest else DEFAULT_TAG), digest=digest)


def canonical(text: str) -> str:
    """The one form of a name: `alpine` is docker.io/library/alpine:latest. Raises InvalidInput."""
    return str(parse(text))


def is_digest(text: str) -> bool:
    """Whether a text is a SHA-256 digest in its one form; no other algorithm is used by registries."""
    return _DIGEST.fullmatch(text) is not None


def _split_tag(name: str) -> tuple[str, str | None]:
    """A colon after the last slash begins the tag; before it, a port."""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, None)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not ({".", ":"} & set(first) or first.lower() == "localhost"):
        first, rest = DOCKER_HUB, name
    registry = first.lower()
    if registry in {"index.docker.io", "registry-1.docker.io"}:
        registry = DOCKER_HUB
    return registry, f"library/{rest}" if registry == DOCKER_HUB and "/" not in rest else rest


def _port(registry: str) -> int:
    _, colon, port = registry.rpartition(":")
    return int(port) if colon and port.isdecimal() else 0


def _invalid(text: str, why: str) -> InvalidInput:
    return InvalidInput(f"{text[:100]!r} is not the name of an image: {why}", hint=_HINT)
