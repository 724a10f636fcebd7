"""Builds images of Dockerfiles, and knows again what it has built: by a key over everything that the build may read.

<directory>/builds/<key>      JSON: the digest of what came of it, by keeper and name
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping
from typing import Final, Protocol

from agentkernel.abc_images import ImageKeeper, Report
from agentkernel.errors import NotFound
from agentkernel.images import builders, context, dockerfile
from agentkernel.images.builders import Builder
from agentkernel.images.rooms import room
from agentkernel.model.image import Image, ImageProgress, ImageStage, ImageWork

DOCKERFILES: Final = ("Dockerfile", "dockerfile", "Containerfile")
MAX_REMEMBERED: Final = 1000
_VERSION: Final = "1"  # of the key


class Place(Protocol):
    """Where a build leaves its image: `engine.parts.BuildPlace`."""

    @property
    def keeper(self) -> ImageKeeper: ...

    @property
    def directory(self) -> str: ...

    @property
    def environment(self) -> Mapping[str, str]: ...


async def build(work: ImageWork, reference: str, place: Place, report: Report) -> Image:
    """Implements `engine.parts.Build`. The image also stays with the builder, under the same name."""
    builder = await builders.found(work.builder, work.backend, place.environment)
    path, text = await asyncio.to_thread(_dockerfile, work)
    report(ImageProgress(stage=ImageStage.RESOLVING, item=work.path))
    memory = _Memory(f"{place.directory}/builds", await _key(work, builder, text), f"{work.backend} {reference}")
    if not work.fresh:
        image = await place.keeper.find(reference)
        if image is not None and image.digest == memory.digest():
            return image
    image = await _built(work, reference, place, report, builder, path)
    await asyncio.to_thread(memory.note, image.digest)
    return image


async def _built(work: ImageWork, reference: str, place: Place, report: Report, builder: Builder, path: str) -> Image:
    async with room(place.directory) as temporary:
        image_id = await builder.build(work, reference, path, f"{temporary}/id", lambda line: _tell(report, line))
        if work.backend == builder.name:
            image = await place.keeper.find(reference)
            if image is not None:
                return image
        archive = f"{temporary}/image.tar"
        await builder.save(image_id, reference, archive)
        return await place.keeper.import_image(archive, reference, report)


def _tell(report: Report, line: str) -> None:
    if line.strip():
        report(ImageProgress(stage=ImageStage.BUILDING, item=line))


def _dockerfile(work: ImageWork) -> tuple[str, str]:
    """Its path and what it says; raises NotFound, InvalidInput."""
    for name in (work.dockerfile,) if work.dockerfile else DOCKERFILES:
        path = os.path.normpath(os.path.join(work.path, name))
        text = context.read_text(path)
        if text is not None:
            return path, text
    raise NotFound(f"there is no {work.dockerfile or DOCKERFILES[0]} in {work.path}", hint="--file names another one")


async def _key(work: ImageWork, builder: Builder, text: str) -> str:
    """Over everything that may matter: the context, the Dockerfile wherever it is, its arguments, the images that it begins with."""
    more = [_VERSION, builder.name, text, work.target, work.platform]
    more += [f"{name}={value}" for name, value in sorted(work.arguments)]
    for base in dockerfile.bases(text, dict(work.arguments)):
        more.append(f"{base} {await builder.id_of(base)}")
    name = os.path.basename(work.dockerfile or DOCKERFILES[0])
    own = f"{work.path}/{name}.dockerignore"  # some builders go by it, some do not: then nothing is taken to be left out
    ignores = () if await asyncio.to_thread(os.path.lexists, own) else builder.ignore_files
    return await asyncio.to_thread(context.digest_of, work.path, ignores, more)


class _Memory:
    """What came of builds with this key."""

    def __init__(self, directory: str, key: str, name: str) -> None:
        self._directory = directory
        self._path = f"{directory}/{key}"
        self._name = name

    def digest(self) -> str:
        """Of the image of that name; empty: it was not built with this key."""
        return self._read().get(self._name, "")

    def note(self, digest: str) -> None:
        """Remembers it; what cannot be written is built again the next time."""
        known = {**self._read(), self._name: digest}
        fresh = f"{self._path}.{os.urandom(4).hex()}"
        with contextlib.suppress(OSError):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            with open(fresh, "w") as file:
                json.dump(known, file)
            os.replace(fresh, self._path)
            self._drop_oldest()

    def _read(self) -> dict[str, str]:
        try:
            with open(self._path) as file:
                known = json.load(file)
        except (OSError, ValueError):
            return {}
        return {str(name): str(digest) for name, digest in known.items()} if isinstance(known, dict) else {}

    def _drop_oldest(self) -> None:
        paths = [entry.path for entry in os.scandir(self._directory)]
        if len(paths) > MAX_REMEMBERED:
            for path in sorted(paths, key=os.path.getmtime)[: len(paths) - MAX_REMEMBERED]:
                os.unlink(path)
