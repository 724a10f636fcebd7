"""The images that Apple's `container` keeps. Implements `abc_images.ImageKeeper`.

An image's digest is here that of its index, which is what the program shows of it. The program reads its registries' logins itself
(`container registry login`), and it cannot tell who is in an image's /etc/passwd: an image with a USER by name is refused by policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from agentkernel.abc_images import Report
from agentkernel.backends.containers.apple.program import SLOW_S, Program, ProgramFailed
from agentkernel.backends.containers.ledger import Ledger
from agentkernel.errors import Conflict, ImageFailed, InvalidInput, NotFound, Refused
from agentkernel.model.image import Image, ImageConfig, ImageProgress, ImageRecord, ImageStage, PullPolicy

_BACKEND = "apple"
_PULL_S = 3600.0
_MOST_VARIABLES = 1024
_LOGIN_HINT = "container registry login REGISTRY"


class AppleImages:
    """Made with the architecture of this machine, as images name it."""

    def __init__(self, program: Program, ledger: Ledger, architecture: str) -> None:
        self._program = program
        self._ledger = ledger
        self._architecture = architecture
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def find(self, reference: str) -> Image | None:
        """One inspection."""
        found = await self._inspect(reference)
        if found is None:
            return None
        self._ledger.used(reference)
        return self._image(reference, found)

    async def obtain(self, reference: str, policy: PullPolicy, report: Report, *, platform: str = "") -> Image:
        """See `ImageKeeper.obtain`; the program does not tell how far it is."""
        async with self._locks[reference]:
            before = await self._inspect(reference)
            if policy is not PullPolicy.ALWAYS:
                if before is not None:
                    return self._image(reference, before)
                if policy is PullPolicy.NEVER:
                    hint = f"run `agentkernel image pull --backend {_BACKEND} {reference}`"
                    raise NotFound(f"{_BACKEND} has no image {reference!r}", hint=hint)
            report(ImageProgress(stage=ImageStage.DOWNLOADING, item=reference))
            try:
                where = ("--platform", platform) if platform else ()
                await self._program.call("image", "pull", "--progress", "none", *where, reference, deadline_s=_PULL_S)
            except ProgramFailed as failure:
                raise _pull_error(failure, reference) from failure
            is_ours = before is None or reference in self._ledger.entries()
            return await self._had(reference, is_ours=is_ours)

    async def images(self) -> Sequence[ImageRecord]:
        """All but the program's own."""
        listed = await self._program.ask("image", "list", "--format", "json")
        entries = self._ledger.entries()
        records = []
        for found in listed if isinstance(listed, list) else ():
            reference, digest = _name(found), _digest(found)
            variant = self._variant(found)
            entry = entries.get(reference)
            known = entry if entry is not None and entry.identity == digest else None
            records.append(
                ImageRecord(
                    reference=reference,
                    digest=digest,
                    size_bytes=int(variant.get("size") or 0),
                    obtained_at=known.obtained_at if known else 0.0,
                    used_at=known.used_at if known else 0.0,
                    platform=f"linux/{self._architecture}" if variant else "",
                    backend=_BACKEND,
                )
            )
        return sorted(records, key=lambda record: record.reference)

    async def import_image(self, path: str, reference: str, report: Report) -> Image:
        """Takes an OCI archive, which is all that the program takes."""
        _check_archive(path)
        report(ImageProgress(stage=ImageStage.UNPACKING, item=path))
        try:
            loaded = (await self._program.call("image", "load", "--input", path, deadline_s=SLOW_S)).split()
        except ProgramFailed as failure:
            raise InvalidInput(f"{_BACKEND} cannot import {path!r}: {failure.words}", hint="it takes OCI archives only") from failure
        if not loaded:
            raise InvalidInput(f"there is no image in {path!r}", hint="it takes OCI archives only")
        if reference != loaded[-1]:
            await self._program.call("image", "tag", loaded[-1], reference)
        return await self._had(reference, is_ours=True)

    async def remove_image(self, reference: str) -> None:
        """See `ImageKeeper.remove_image`."""
        if await self._inspect(reference) is None:
            raise NotFound(f"{_BACKEND} has no image {reference!r}")
        try:
            await self._program.call("image", "delete", reference)
        except ProgramFailed as failure:
            raise Conflict(f"the image {reference!r} cannot be removed: {failure.words}", hint="remove its sandboxes first") from failure
        self._ledger.forget(reference)

    async def prune_images(self, unused_for_s: float, in_use: Sequence[str]) -> Sequence[str]:
        """See `ImageKeeper.prune_images`; only images that came by this keeper go."""
        removed = []
        for reference, entry in self._ledger.entries().items():
            if entry.identity in in_use or self._ledger.age_s(entry) < unused_for_s:
                continue
            found = await self._inspect(reference)
            if found is None or _digest(found) != entry.identity:  # somebody else removed it, or gave its name away
                self._ledger.forget(reference)
                continue
            with contextlib.suppress(Conflict, NotFound):
                await self.remove_image(reference)
                removed.append(f"{_BACKEND}: {reference}")
        return removed

    async def _inspect(self, reference: str) -> Mapping[str, Any] | None:
        try:
            found = await self._program.ask("image", "inspect", reference)
        except ProgramFailed as failure:
            if failure.says_missing:
                return None
            raise
        return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else None

    async def _had(self, reference: str, *, is_ours: bool) -> Image:
        found = await self._inspect(reference)
        if found is None:
            raise ImageFailed(f"{_BACKEND} does not have {reference!r} although it says so", hint="see `container system logs`")
        image = self._image(reference, found)
        if is_ours:
            self._ledger.obtained(reference, image.digest)
        return image

    def _image(self, reference: str, found: Mapping[str, Any]) -> Image:
        variant = self._variant(found)
        if not variant:
            raise ImageFailed(f"{reference!r} is not made for linux/{self._architecture}", hint="choose an image that is")
        described = variant.get("config")
        return Image(reference=reference, digest=_digest(found), config=_config(described if isinstance(described, dict) else {}))

    def _variant(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        variants = found.get("variants")
        for variant in variants if isinstance(variants, list) else ():
            platform = variant.get("platform") if isinstance(variant, dict) else None
            if isinstance(platform, dict) and (platform.get("os"), platform.get("architecture")) == ("linux", self._architecture):
                return dict(variant)
        return {}


def _check_archive(path: str) -> None:
    if not os.path.exists(path):
        raise NotFound(f"there is no file {path!r}")
    if os.path.isdir(path):
        raise InvalidInput(f"{_BACKEND} cannot import a directory", hint="give it an OCI archive: skopeo copy ... oci-archive:FILE.tar")


def _config(described: Mapping[str, Any]) -> ImageConfig:
    """Of the OCI image configuration, whose field `config` it is."""
    config = described.get("config")
    said = config if isinstance(config, dict) else {}
    pairs = [str(each).partition("=") for each in _list(said.get("Env"))[:_MOST_VARIABLES]]
    return ImageConfig(
        environment=tuple((name, value) for name, _, value in pairs if name),
        working_directory=str(said.get("WorkingDir") or ""),
        user=str(said.get("User") or ""),
        entrypoint=tuple(map(str, _list(said.get("Entrypoint")))),
        command=tuple(map(str, _list(said.get("Cmd")))),
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _configuration(found: Mapping[str, Any]) -> Mapping[str, Any]:
    configuration = found.get("configuration")
    return configuration if isinstance(configuration, dict) else {}


def _name(found: Mapping[str, Any]) -> str:
    return str(_configuration(found).get("name") or "")


def _digest(found: Mapping[str, Any]) -> str:
    descriptor = _configuration(found).get("descriptor")
    return str(descriptor.get("digest") or "") if isinstance(descriptor, dict) else ""


def _pull_error(failure: ProgramFailed, reference: str) -> NotFound | Refused | ImageFailed:
    words = failure.words.lower()
    if any(word in words for word in ("401", "403", "unauthorized", "denied", "credentials")):
        return Refused(f"the registry refuses {reference!r}: {failure.words}", hint=_LOGIN_HINT)
    if failure.says_missing or "404" in words:
        return NotFound(f"the registry does not have {reference!r}: {failure.words}")
    return ImageFailed(f"{reference!r} cannot be pulled: {failure.words}", hint="is the registry reachable?")
