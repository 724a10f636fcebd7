"""What is asked of an engine about images, and what its answers say: text of whoever made an image, of which anything may be missing."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from agentkernel.backends.containers.api import Api, EngineRefused
from agentkernel.backends.containers.archive import users_of_archive
from agentkernel.errors import ImageFailed, NotFound, Refused
from agentkernel.model.image import ImageConfig, ImageProgress, ImageStage

OWN_PREFIX: Final = "agentkernel-"  # images that backends make for themselves: no user's
SILENCE_S: Final = 300.0  # a registry that sends nothing for so long is given up
_DOWNLOADING = ("Downloading", "Pulling fs layer", "Copying", "Trying to pull")
_UNPACKING = ("Extracting", "Writing manifest", "Storing signatures", "Pull complete")
_ABSENT = ("not found", "manifest unknown", "name unknown", "does not exist", "no such image", "not known")
_DENIED = ("unauthorized", "authentication required", "denied", "forbidden", "no basic auth credentials")

Lines = AsyncIterator[dict[str, Any]]


class ImageCalls:
    """Of an engine that speaks Docker's interface."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def inspect(self, reference: str) -> dict[str, Any] | None:
        """By name or id; None: it is not here."""
        try:
            found = await self._api.call("GET", f"/images/{escaped(reference)}/json")
        except EngineRefused as refused:
            if refused.status == 404:
                return None
            raise
        return found if isinstance(found, dict) else None

    async def listed(self) -> list[dict[str, Any]]:
        """All that are here, in short."""
        return await self._api.call("GET", "/images/json") or []

    async def named(self) -> dict[str, str]:
        """Every name, with the id that it stands for."""
        return {name: identity(each) for each in await self.listed() for name in names(each)}

    async def tag(self, image: str, reference: str) -> None:
        """Gives an image (by its id) one more name, taken from whichever has it."""
        name, tag = split(reference)
        await self._api.call("POST", f"/images/{image}/tag", query={"repo": name, "tag": tag})

    async def remove(self, reference: str) -> None:
        """Takes the name away, and with the last one the image; raises EngineRefused (404: it is not here, 409: it is in use)."""
        await self._api.call("DELETE", f"/images/{escaped(reference)}")

    def pull(self, reference: str, platform: str, headers: Mapping[str, str]) -> Lines:
        """The engine's own lines about a pull."""
        name, tag = split(reference)
        query = {"fromImage": name, "tag": tag, **({"platform": platform} if platform else {})}
        return self._api.lines("POST", "/images/create", query=query, headers=headers, silence_s=SILENCE_S)

    def load(self, chunks: Iterator[bytes]) -> Lines:
        """The lines about taking up what `docker save` wrote."""
        return self._api.lines("POST", "/images/load", query={"quiet": True}, body=chunks)

    def import_files(self, chunks: Iterator[bytes], reference: str) -> Lines:
        """The lines about making an image of an archive of a file system."""
        # Not with `tag` by itself, which Podman passes over.
        return self._api.lines("POST", "/images/create", query={"fromSrc": "-", "repo": reference}, body=chunks)

    async def users_in(self, container: str) -> tuple[tuple[str, int, int], ...]:
        """Of a container's /etc/passwd; none, where it has no such file."""
        try:
            answer = await self._api.call("GET", f"/containers/{container}/archive", query={"path": "/etc/passwd"})
        except EngineRefused as refused:
            if refused.status == 404:
                return ()
            raise
        return users_of_archive(answer if isinstance(answer, bytes) else b"")


def login_headers(reference: str, login: tuple[str, str, str] | None) -> dict[str, str]:
    """Who the user is to the registry: (name, password, identity token), as the engine passes it on."""
    if login is None:
        return {}
    name, password, token = login
    said = {"identitytoken": token} if token else {"username": name, "password": password}
    said["serveraddress"] = reference.partition("/")[0]
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(said).encode()).decode()}


def identity(found: Mapping[str, Any]) -> str:
    """An image's id, as sha256:..."""
    text = str(found.get("Id") or found.get("ID") or "")
    return text if text.startswith("sha256:") else f"sha256:{text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What never changes of an image."""

    platform: str
    size_bytes: int


def facts_of(found: Mapping[str, Any]) -> Facts:
    """As an inspection tells them."""
    platform = f"{found.get('Os') or 'linux'}/{found.get('Architecture') or ''}".rstrip("/")
    return Facts(platform=platform, size_bytes=int(found.get("Size") or 0))


def names(found: Mapping[str, Any]) -> list[str]:
    """Its canonical names, without what has none and what backends made for themselves."""
    tags = [str(tag) for tag in found.get("RepoTags") or () if "<none>" not in str(tag)]
    return [name for name in map(canonical, tags) if not _is_own(name)]


def _is_own(name: str) -> bool:
    return name.startswith((f"docker.io/library/{OWN_PREFIX}", f"localhost/{OWN_PREFIX}"))


def canonical(name: str) -> str:
    """A name as Docker shortens it, whole again: alpine:3.20 is docker.io/library/alpine:3.20."""
    first, slash, _ = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}"
    return name if "." in first or ":" in first or first == "localhost" else f"docker.io/{name}"


def split(reference: str) -> tuple[str, str]:
    """(name, tag or digest)."""
    name, at, digest = reference.partition("@")
    repository, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        return repository, digest if at else tag
    return name, digest if at else "latest"


def escaped(reference: str) -> str:
    """For a path of the interface."""
    return quote(reference, safe="/:@")


def config_of(found: Mapping[str, Any]) -> ImageConfig:
    """What an inspection says about the image's commands."""
    section = found.get("Config")
    config = section if isinstance(section, dict) else {}
    pairs = [each.partition("=") for each in _words(config.get("Env"))]
    return ImageConfig(
        environment=tuple((name, value) for name, _, value in pairs if name),
        working_directory=str(config.get("WorkingDir") or ""),
        user=str(config.get("User") or ""),
        entrypoint=_words(config.get("Entrypoint")),
        command=_words(config.get("Cmd")),
    )


def _words(found: object) -> tuple[str, ...]:
    return tuple(map(str, found)) if isinstance(found, list) else ()


def progress_of(line: Mapping[str, Any]) -> ImageProgress:
    """What a line about a pull says."""
    said = str(line.get("status") or line.get("stream") or "").strip()
    detail = line.get("progressDetail")
    numbers = detail if isinstance(detail, dict) else {}
    stage = ImageStage.RESOLVING
    if said.startswith(_DOWNLOADING):
        stage = ImageStage.DOWNLOADING
    elif said.startswith(_UNPACKING):
        stage = ImageStage.UNPACKING
    item = str(line.get("id") or said)
    return ImageProgress(stage=stage, item=item, done_bytes=_number(numbers.get("current")), total_bytes=_number(numbers.get("total")))


def _number(found: object) -> int:
    return max(0, int(found)) if isinstance(found, int | float) else 0


def pull_error(said: str, reference: str) -> Exception:
    """Why a pull failed: of what a registry has refused an engine passes on the text alone."""
    low = said.lower()
    if any(word in low for word in _DENIED):
        return Refused(f"the registry does not give {reference!r}: {said}", hint=f"run `docker login {reference.partition('/')[0]}`")
    if any(word in low for word in _ABSENT):
        return NotFound(f"there is no image {reference!r}: {said}", hint="check its name and tag")
    return ImageFailed(f"{reference!r} cannot be pulled: {said}")


def loaded_of(line: Mapping[str, Any]) -> list[str]:
    """The images of a line `Loaded image: NAME`, `Loaded image ID: sha256:...` or `Loaded image: NAME,NAME`; none of another line."""
    said = str(line.get("stream", ""))
    for words in ("Loaded image ID:", "Loaded image(s):", "Loaded image:"):
        if said.startswith(words):
            return [name for each in said.removeprefix(words).split(",") if (name := each.strip())]
    return []
