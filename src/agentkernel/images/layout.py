"""Images in a directory, as programs hand them on: an OCI image layout, or what `docker save` wrote before it was one too.

    oci-layout, index.json, blobs/sha256/<hex>            OCI image layout 1.1 (docker save of today, skopeo, podman, buildx)
    manifest.json, <hex>.json, <hex>/layer.tar            docker save up to 24; a layer may be a link to another image's

The directory may be anybody's: paths in it are walked beneath it alone, and nothing of it is used that its digest does not fit.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from agentkernel.errors import AgentKernelError, ImageFailed, InvalidInput, NotFound
from agentkernel.images import reference as references
from agentkernel.images.beneath import DIRECTORY, open_file
from agentkernel.images.blobs import digest_of
from agentkernel.images.manifest import (
    MAX_DOCUMENT_BYTES,
    MAX_LAYERS,
    MAX_MANIFESTS,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    parse_document,
    to_json,
)
from agentkernel.images.source import Document
from agentkernel.images.transfers import Transfer

_CHUNK_BYTES = 1024 * 1024
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image of the directory: its names, canonical, and where its first document comes from."""

    names: frozenset[str]
    descriptor: Descriptor | None = None  # of a layout
    saved: tuple[str, tuple[str, ...]] = ("", ())  # of docker save: paths of the configuration and of the layers

    @property
    def digest(self) -> str:
        """Of its first document; empty for what docker saved."""
        return self.descriptor.digest if self.descriptor is not None else ""


class Layout:
    """A directory that holds images. Implements `images.source.Source`."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[str, str] = {}  # digest -> path in the directory, of what docker save names otherwise

    def kind(self) -> str:
        """`oci`, `saved`, or empty: this is no directory of images."""
        if os.path.lexists(f"{self._directory}/oci-layout") and os.path.lexists(f"{self._directory}/index.json"):
            return "oci"
        return "saved" if os.path.lexists(f"{self._directory}/manifest.json") else ""

    async def first(self, reference: str) -> Document:
        """The first document of the image of this name, or of the only one that is there.

        Raises:
            InvalidInput: there are several, and none has this name; or it is damaged.
        """
        try:
            entries = await asyncio.to_thread(self._oci if self.kind() == "oci" else self._saved)
            chosen = _chosen(entries, reference)
            if chosen[0].descriptor is None:
                return await asyncio.to_thread(self._as_manifest, *chosen[0].saved)
            if len(chosen) == 1:
                found = await self.document(chosen[0].descriptor.digest)
                return Document(data=found.data, media_type=chosen[0].descriptor.media_type)
            return _as_index([each.descriptor for each in chosen if each.descriptor is not None])
        except (NotFound, ImageFailed, OSError) as error:
            why = error.message if isinstance(error, AgentKernelError) else f"{error.filename or 'a file'}: {error.strerror}"
            raise InvalidInput(f"the images in it cannot be read: {why}") from error

    async def document(self, asked: str) -> Document:
        """A document by its digest; raises NotFound."""
        try:
            data = await asyncio.to_thread(self._read, self._path(asked))
        except OSError as error:
            raise NotFound(f"{asked[:19]} is not in it: {error.strerror}") from error
        if digest_of(data) != asked:
            raise ImageFailed(f"{asked[:19]} in it is something else")
        return Document(data=data)

    def blob(self, descriptor: Descriptor, offset: int) -> AbstractAsyncContextManager[Transfer]:
        """Begins a transfer; see `images.transfers.Fetch`."""
        return self._blob(descriptor, offset)

    @asynccontextmanager
    async def _blob(self, descriptor: Descriptor, offset: int) -> AsyncIterator[Transfer]:
        try:
            opened = self._open(self._path(descriptor.digest))
        except OSError as error:
            raise InvalidInput(f"a layer of the image, {descriptor.digest[:19]}, is not in it: {error.strerror}") from error
        try:
            yield Transfer(offset=offset, chunks=_chunks(opened, offset))
        finally:
            os.close(opened)

    def _path(self, digest: str) -> str:
        return self._files.get(digest) or f"blobs/sha256/{digest.removeprefix('sha256:')}"

    def _open(self, path: str) -> int:
        root = os.open(self._directory, DIRECTORY)
        try:
            return open_file(root, os.fsencode(path))
        finally:
            os.close(root)

    def _read(self, path: str) -> bytes:
        with open(self._open(path), "rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise ImageFailed(f"{path[:100]!r} has more than {MAX_DOCUMENT_BYTES} bytes")
        return data

    def _oci(self) -> list[Entry]:
        index = parse_document(self._read("index.json"), OCI_INDEX)
        if not isinstance(index, Index):
            raise ImageFailed("index.json is none")
        return [Entry(names=_names(dict(each.annotations)), descriptor=each) for each in index.manifests]

    def _saved(self) -> list[Entry]:
        try:
            listed: Any = json.loads(self._read("manifest.json"))
            entries = [
                Entry(
                    names=frozenset(filter(None, map(_canonical, each.get("RepoTags") or ()))),
                    saved=(str(each["Config"]), tuple(map(str, each["Layers"]))),
                )
                for each in listed[:MAX_MANIFESTS]
            ]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ImageFailed("manifest.json is not what docker save writes") from None
        if any(len(each.saved[1]) > MAX_LAYERS for each in entries):
            raise ImageFailed(f"an image has more than {MAX_LAYERS} layers")
        return entries

    def _as_manifest(self, config: str, layers: Sequence[str]) -> Document:
        """A manifest that says what docker save's own list does; the same image always gets the same one."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self._described(config, OCI_CONFIG),
            "layers": [self._described(layer, OCI_LAYER) for layer in layers],
        }
        return Document(data=to_json(manifest), media_type=OCI_MANIFEST)

    def _described(self, path: str, media_type: str) -> dict[str, Any]:
        with open(self._open(path), "rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            size = os.fstat(file.fileno()).st_size
        self._files[digest] = path
        return {"mediaType": media_type, "digest": digest, "size": size}


def _chosen(entries: Sequence[Entry], reference: str) -> Sequence[Entry]:
    """The image of that name, else the only one; several entries where one image is there for several platforms."""
    found = [each for each in entries if reference in each.names] or list(entries)
    if not found:
        raise InvalidInput("there is no image in it")
    if found[0].digest and len({each.digest for each in found}) == 1:
        return found[:1]  # one image, by several names
    has_platforms = all(each.descriptor is not None and each.descriptor.platform is not None for each in found)
    apart = len(found) > 1 and (len({each.names for each in found}) > 1 or not has_platforms)
    if apart:
        names = sorted(name for each in found for name in each.names)
        raise InvalidInput(
            f"there are {len(found)} images in it, and none of them is {reference}",
            hint=f"give it the name of one: {', '.join(names[:8])}" if names else "save one image alone",
        )
    return found


def _as_index(descriptors: Sequence[Descriptor]) -> Document:
    manifests = [
        {
            "mediaType": each.media_type,
            "digest": each.digest,
            "size": each.size_bytes,
            "platform": {
                "os": each.platform.system if each.platform else "",
                "architecture": each.platform.architecture if each.platform else "",
                "variant": each.platform.variant if each.platform else "",
            },
        }
        for each in descriptors
    ]
    return Document(data=to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}), media_type=OCI_INDEX)


def _names(annotations: dict[str, str]) -> frozenset[str]:
    """Tags alone (`latest`), which some programs write there, name no image."""
    said = (annotations.get(key, "") for key in _NAMES)
    return frozenset(name for text in said if "/" in text and (name := _canonical(text)))


def _canonical(text: object) -> str:
    try:
        return references.canonical(text) if isinstance(text, str) else ""
    except InvalidInput:
        return ""


async def _chunks(descriptor: int, offset: int) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(os.pread, descriptor, _CHUNK_BYTES, offset):
        offset += len(chunk)
        yield chunk
