"""Brings one image from a source into the blobs: the choice by platform, its configuration, its layers, everything verified."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentkernel.errors import ImageFailed, NotFound
from agentkernel.images.blobs import Blobs, digest_of
from agentkernel.images.manifest import (
    MAX_DOCUMENT_BYTES,
    Configuration,
    Descriptor,
    Index,
    Manifest,
    parse_configuration,
    parse_document,
    require_runnable,
)
from agentkernel.images.platforms import Platform, best, suits
from agentkernel.images.source import Document, Source
from agentkernel.model.image import ImageProgress, ImageStage
from agentkernel.units import format_size

PARALLEL = 3  # layers on their way at a time, as docker has it
MAX_NESTED = 3  # an index in an index in an index
SPACE_LEFT_BYTES = 256 * 1024**2  # of the disk, after all layers are here
_STEP_BYTES = 1024 * 1024  # between two reports about a layer

Report = Callable[[ImageProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """An image whose every byte is among the blobs."""

    digest: str  # of its manifest
    source_digest: str  # of the first document: the index, or the manifest itself
    documents: tuple[str, ...]  # digests of all documents, the configuration's too
    layers: tuple[Descriptor, ...]  # from the lowest up
    configuration: Configuration


async def fetch(source: Source, first: Document, blobs: Blobs, platform: Platform, report: Report) -> Fetched:
    """Fetches what `first` describes, for that platform.

    Raises:
        NotFound: the image is not made for the platform.
        Unsupported: it is no image, or has layers that cannot be read here.
        ImageFailed: it does not come, is not what its digests say, or the disk is too small.
    """
    documents, manifest = await _manifest(source, first, blobs, platform)
    require_runnable(manifest)
    configuration = await asyncio.to_thread(parse_configuration, await _configuration(source, manifest.config, blobs))
    _require_fitting(configuration, manifest, platform)
    await _layers(source, manifest.layers, blobs, report)
    return Fetched(
        digest=documents[-1],
        source_digest=documents[0],
        documents=(*documents, manifest.config.digest),
        layers=manifest.layers,
        configuration=configuration,
    )


async def _configuration(source: Source, descriptor: Descriptor, blobs: Blobs) -> bytes:
    await blobs.receive(descriptor, source.blob)
    data = await asyncio.to_thread(blobs.document, descriptor.digest)
    if data is None:  # it was here, and is damaged
        blobs.verified(descriptor)
        await blobs.receive(descriptor, source.blob)
        data = await asyncio.to_thread(blobs.document, descriptor.digest)
    return data or b""


async def _manifest(source: Source, first: Document, blobs: Blobs, platform: Platform) -> tuple[list[str], Manifest]:
    """The digests of the documents on the way to the image's manifest, and that."""
    documents, document = [], first
    for _ in range(MAX_NESTED):
        parsed = await asyncio.to_thread(parse_document, document.data, document.media_type)
        documents.append(await blobs.put(document.data))
        if isinstance(parsed, Manifest):
            return documents, parsed
        chosen = choose(parsed, platform)
        document = await source.document(chosen.digest)
        if digest_of(document.data) != chosen.digest or len(document.data) != chosen.size_bytes:
            raise ImageFailed(f"what came as {chosen.digest[:19]} is something else", hint="try again")
        document = Document(data=document.data, media_type=document.media_type or chosen.media_type)
    raise ImageFailed("the image is an index within an index without end")


def choose(index: Index, platform: Platform) -> Descriptor:
    """The image for that platform; raises NotFound with the ones that there are."""
    offered = [each for each in index.manifests if each.platform is not None and each.size_bytes <= MAX_DOCUMENT_BYTES]
    found = best([each.platform for each in offered if each.platform is not None], platform)
    if found is not None:
        return offered[found]
    if len(index.manifests) == 1 and not offered:
        return index.manifests[0]  # its configuration will tell
    there = dict.fromkeys(str(each.platform) for each in offered if each.platform is not None and each.platform.system != "unknown")
    raise NotFound(
        f"the image is not made for {platform}", hint=f"it is made for {', '.join(list(there)[:12])}" if there else "it says no platform"
    )


def _require_fitting(configuration: Configuration, manifest: Manifest, platform: Platform) -> None:
    is_said = bool(configuration.platform.system and configuration.platform.architecture)
    if is_said and not suits(configuration.platform, platform):
        raise NotFound(f"the image is not made for {platform}", hint=f"it is made for {configuration.platform}")
    if len(configuration.diff_ids) != len(manifest.layers):
        raise ImageFailed(f"the image has {len(manifest.layers)} layers and its configuration tells of {len(configuration.diff_ids)}")


async def _layers(source: Source, layers: Sequence[Descriptor], blobs: Blobs, report: Report) -> None:
    once = {layer.digest: layer for layer in layers}
    missing = [layer for layer in once.values() if not blobs.has(layer)]
    _require_space(blobs, sum(layer.size_bytes for layer in missing))
    turns = asyncio.Semaphore(PARALLEL)

    async def one(layer: Descriptor) -> None:
        async with turns:
            if blobs.has(layer):
                await asyncio.to_thread(blobs.verified, layer)  # of another image, perhaps long ago; if damaged, it comes once more
            await blobs.receive(layer, source.blob, _meter(layer, report))

    try:
        async with asyncio.TaskGroup() as group:
            for layer in once.values():
                group.create_task(one(layer))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _meter(layer: Descriptor, report: Report) -> Callable[[int], None]:
    told = -_STEP_BYTES

    def progress(done_bytes: int) -> None:
        nonlocal told
        if done_bytes - told >= _STEP_BYTES or done_bytes < told or done_bytes == layer.size_bytes != told:
            told = done_bytes
            report(ImageProgress(stage=ImageStage.DOWNLOADING, item=layer.digest, done_bytes=done_bytes, total_bytes=layer.size_bytes))

    return progress


def _require_space(blobs: Blobs, wanted_bytes: int) -> None:
    free_bytes = blobs.free_bytes()
    if wanted_bytes and wanted_bytes + SPACE_LEFT_BYTES > free_bytes:
        raise ImageFailed(
            f"the image's layers have {format_size(wanted_bytes)}, and the disk has {format_size(free_bytes)} left",
            hint="`agentkernel image prune --unused 0s` removes all images that no sandbox uses",
        )
