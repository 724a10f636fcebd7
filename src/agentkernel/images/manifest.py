"""What registries say about images: manifests, indexes of them by platform, and configurations. Parsed strictly, and bounded.

(OCI image specification 1.1; Docker's image manifest version 2, schema 2.) All of it is text of whoever made the image. What a document
is follows from its media type, and one that could be read as two things is refused (CVE-2021-41190).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentkernel.errors import ImageFailed, Unsupported
from agentkernel.images.platforms import Platform, normal
from agentkernel.images.reference import is_digest
from agentkernel.model.image import ImageConfig

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024  # of a manifest, an index or a configuration
MAX_LAYERS = 512
MAX_MANIFESTS = 1024  # of an index
MAX_LAYER_BYTES = 64 * 1024**3
MAX_WORDS = 4096  # of an entry point, or variables
MAX_TEXT_CHARACTERS = 128 * 1024  # of one of them: as execve(2) has it

OCI_INDEX, OCI_MANIFEST = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_CONFIG, DOCKER_CONFIG = "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
ACCEPTED = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
_INDEXES, _MANIFESTS = frozenset({OCI_INDEX, DOCKER_LIST}), frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_LAYERS = frozenset(
    {
        OCI_LAYER,
        f"{OCI_LAYER}+gzip",
        f"{OCI_LAYER}+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A document or layer that another document names: what is there must have this digest and size."""

    media_type: str
    digest: str
    size_bytes: int
    platform: Platform | None = None  # in an index
    annotations: tuple[tuple[str, str], ...] = ()  # in an index: how a layout names it


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One image for several platforms."""

    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image for one platform; layers from the lowest up."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What an image's configuration says: about its commands, and about itself."""

    config: ImageConfig
    platform: Platform
    diff_ids: tuple[str, ...]  # digests of the layers, decompressed


def parse_document(data: bytes, media_type: str = "") -> Index | Manifest:
    """Reads an index or manifest. `media_type`: how it was served or described; a document that says otherwise is refused.

    Raises:
        ImageFailed: it is damaged, or hostile.
        Unsupported: it is of a kind that holds no image, or only for programs of ten years ago.
    """
    document = _object(_parsed(data), "the manifest")
    if document.get("schemaVersion") == 1 or "fsLayers" in document or media_type.startswith(_OLDEST):
        raise Unsupported("the registry has this image only in Docker's schema 1 of 2013", hint="push it again with a current docker")
    said = _text(document.get("mediaType") or "", "a mediaType")
    kind = said or media_type.partition(";")[0].strip()
    if kind not in _INDEXES | _MANIFESTS:
        if kind not in _UNTYPED:
            raise Unsupported(f"{_shown(kind)} is not the type of an image's manifest", hint="it may be an artifact of another program")
        kind = OCI_INDEX if "manifests" in document else OCI_MANIFEST
    if said and media_type.partition(";")[0].strip() not in {said, *_UNTYPED}:
        raise ImageFailed(f"a manifest says to be {_shown(said)} and was served as {_shown(media_type)}")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise ImageFailed("a manifest is an index as well: two programs would see two images in it")
    if kind in _INDEXES:
        return Index(manifests=_descriptors(document, "manifests", MAX_MANIFESTS))
    return _manifest(document)


_OLDEST = "application/vnd.docker.distribution.manifest.v1"
_UNTYPED = frozenset({"", "application/json", "application/octet-stream", "text/plain"})  # what simple servers of files say


def parse_configuration(data: bytes) -> Configuration:
    """Reads an image's configuration; raises ImageFailed."""
    document = _object(_parsed(data), "the configuration")
    section = document.get("config")
    rootfs = _object(document.get("rootfs") or {}, "rootfs")
    diff_ids = tuple(_text(each, "a diff_id") for each in _list(rootfs.get("diff_ids"), "diff_ids", MAX_LAYERS))
    if not all(map(is_digest, diff_ids)):
        raise ImageFailed("the image's configuration names a layer by something that is no digest")
    platform = normal(*(_text(document.get(key) or "", key)[:32].lower() for key in ("os", "architecture", "variant")))
    return Configuration(
        config=_image_config(_object(section if section is not None else {}, "config")), platform=platform, diff_ids=diff_ids
    )


def require_runnable(manifest: Manifest) -> None:
    """Raises Unsupported for what is no image of a root file system, or has layers that cannot be read here."""
    if manifest.config.media_type not in {OCI_CONFIG, DOCKER_CONFIG, *_UNTYPED}:
        raise Unsupported(f"this is no image but {_shown(manifest.config.media_type)}", hint="it is an artifact of another program")
    for layer in manifest.layers:
        if layer.media_type not in _LAYERS:
            raise Unsupported(f"a layer of the image is of type {_shown(layer.media_type)}, which is not supported")


def to_json(document: Mapping[str, Any]) -> bytes:
    """A document in one form, so that equal ones have equal digests."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _manifest(document: Mapping[str, Any]) -> Manifest:
    config = _descriptor(_object(document.get("config"), "a manifest's config"))
    manifest = Manifest(config=config, layers=_descriptors(document, "layers", MAX_LAYERS))
    if config.size_bytes > MAX_DOCUMENT_BYTES:
        raise ImageFailed(f"the image's configuration has {config.size_bytes} bytes")
    return manifest


def _descriptors(document: Mapping[str, Any], key: str, limit: int) -> tuple[Descriptor, ...]:
    return tuple(_descriptor(_object(each, f"an entry of {key}")) for each in _list(document.get(key), key, limit))


def _descriptor(item: Mapping[str, Any]) -> Descriptor:
    digest, size = _text(item.get("digest") or "", "a digest"), item.get("size")
    if not is_digest(digest):
        raise ImageFailed(f"{_shown(digest)} is not a SHA-256 digest")
    if type(size) is not int or not 0 <= size <= MAX_LAYER_BYTES:
        raise ImageFailed(f"the manifest gives {digest[:19]} an impossible size")
    return Descriptor(
        media_type=_text(item.get("mediaType") or "", "a mediaType").partition(";")[0].strip(),
        digest=digest,
        size_bytes=size,
        platform=_platform(item.get("platform")),
        annotations=_pairs(item.get("annotations")),
    )


def _platform(item: Any) -> Platform | None:
    if item is None:
        return None
    fields = _object(item, "a platform")
    return normal(*(_text(fields.get(key) or "", key)[:32].lower() for key in ("os", "architecture", "variant")))


def _pairs(item: Any) -> tuple[tuple[str, str], ...]:
    fields = _object(item if item is not None else {}, "annotations")
    return tuple((key, value) for key, value in list(fields.items())[:MAX_WORDS] if isinstance(value, str))


def _image_config(section: Mapping[str, Any]) -> ImageConfig:
    pairs = (each.partition("=") for each in _words(section.get("Env"), "Env"))
    environment = {name: value for name, equals, value in pairs if name and equals}  # the C library sees no others either
    directory = _word(section.get("WorkingDir") or "", "WorkingDir")
    return ImageConfig(
        environment=tuple(environment.items()),
        working_directory=directory if directory.startswith("/") or not directory else f"/{directory}",
        user=_word(section.get("User") or "", "User"),
        entrypoint=_words(section.get("Entrypoint"), "Entrypoint"),
        command=_words(section.get("Cmd"), "Cmd"),
    )


def _words(item: Any, what: str) -> tuple[str, ...]:
    return tuple(_word(each, what) for each in _list(item, what, MAX_WORDS))


def _word(item: Any, what: str) -> str:
    text = _text(item, what)
    if "\0" in text or len(text) > MAX_TEXT_CHARACTERS:
        raise ImageFailed(f"the image's configuration has a text in {what} that no program can be given")
    return text


def _parsed(data: bytes) -> Any:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ImageFailed(f"a document of the image has more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError):  # (also what is no UTF-8)
        raise ImageFailed("a document of the image is not JSON") from None


def _object(item: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise ImageFailed(f"{what} of the image is not what it must be")
    return item


def _list(item: Any, what: str, limit: int) -> Sequence[Any]:
    if item is None:
        return ()
    if not isinstance(item, list) or len(item) > limit:
        raise ImageFailed(f"{what} of the image is no list, or has more than {limit} entries")
    return item


def _text(item: Any, what: str) -> str:
    if not isinstance(item, str):
        raise ImageFailed(f"{what} of the image is not a text")
    try:
        item.encode()
    except UnicodeEncodeError:  # JSON may write half of a surrogate pair
        raise ImageFailed(f"{what} of the image is not a text") from None
    return item


def _shown(text: str) -> str:
    return ascii(text[:100])
