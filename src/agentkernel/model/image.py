"""Images: what a name stands for, what an image says about its commands, and work on images with its progress."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PullPolicy(StrEnum):
    """When a registry is asked."""

    MISSING = "missing"  # when the image is not here
    ALWAYS = "always"  # whether the name stands for another image by now
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image says about its commands (OCI image configuration, section `config`). Untrusted: text of whoever made the image."""

    environment: tuple[tuple[str, str], ...] = ()
    working_directory: str = ""  # absolute, or empty: /
    user: str = ""  # as USER says it: a name or uid, perhaps with :group; empty: root
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that is here and can be used."""

    reference: str  # canonical: docker.io/library/alpine:3.20
    digest: str  # sha256:<64 hexadecimal digits>, of its manifest, or of what it was imported from
    config: ImageConfig = ImageConfig()
    directory: str = ""  # where it is unpacked, never to be changed; empty: the backend itself keeps it, under `reference`
    users: tuple[tuple[str, int, int], ...] = ()  # (name, uid, gid) of its /etc/passwd, which USER may name; at most 1,024


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """An image as `image list` shows it."""

    reference: str
    digest: str
    size_bytes: int  # of its layers, as they are kept
    obtained_at: float  # seconds since 1970
    used_at: float = 0.0
    platform: str = ""  # linux/amd64
    backend: str = ""  # the backend that keeps it itself; empty: agentkernel's own store


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """How long work on an image may take."""

    work_s: float = 6 * 3600.0  # all of it; 0: for ever
    least_bytes_per_s: int = 1024  # of each layer that a registry sends, on an average of a minute


class ImageWorkKind(StrEnum):
    """What is done with an image that takes long."""

    PULL = "pull"
    IMPORT = "import"
    BUILD = "build"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageWork:
    """Work on one image. Paths are absolute, of the host that the engine runs on."""

    kind: ImageWorkKind
    reference: str  # the name that the image gets
    backend: str = ""  # the backend that is to keep it; empty: agentkernel's own store
    policy: PullPolicy = PullPolicy.ALWAYS  # PULL
    platform: str = ""  # PULL, BUILD: linux/arm64; empty: this host's
    path: str = ""  # IMPORT: an archive (of a file system, `docker save` or OCI) or an unpacked directory; BUILD: the context
    dockerfile: str = ""  # BUILD: relative to the context; empty: Dockerfile
    target: str = ""  # BUILD: the stage to stop at
    arguments: tuple[tuple[str, str], ...] = ()  # BUILD: --build-arg
    builder: str = ""  # BUILD: docker, podman or buildah; empty: the first that is here
    fresh: bool = False  # BUILD: without what an earlier build left


class ImageStage(StrEnum):
    """Where work on an image stands."""

    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    UNPACKING = "unpacking"
    BUILDING = "building"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProgress:
    """One step of the work. The last one is DONE, with the image, or FAILED, with the error."""

    stage: ImageStage
    item: str = ""  # a layer's digest, or a line of the builder's (untrusted text)
    done_bytes: int = 0
    total_bytes: int = 0  # 0: not known
    image: ImageRecord | None = None  # DONE
    error_code: str = ""  # FAILED: as `errors` names it
    error: str = ""
    hint: str = ""

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return self.stage in (ImageStage.DONE, ImageStage.FAILED)
