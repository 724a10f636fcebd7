"""The smallest image there is: the guest alone, as an archive that `container image load` takes. Pure."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any, Final

from agentkernel.backends.containers.plan import GUEST

REFERENCE_BASE: Final = "localhost/agentkernel-probe"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def probe_reference(guest: bytes) -> str:
    """Its name, of the guest that is in it."""
    return f"{REFERENCE_BASE}:{hashlib.sha256(guest).hexdigest()[:16]}"


def probe_archive(guest: bytes, architecture: str) -> bytes:
    """An OCI layout in a tar file; the same bytes for the same guest."""
    layer = _tar([(GUEST.lstrip("/"), guest, 0o755)])
    config = _json(
        {
            "architecture": _ARCHITECTURES[architecture],
            "os": "linux",
            "config": {"Entrypoint": [GUEST], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    inner = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [
                _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
                | {"platform": {"os": "linux", "architecture": _ARCHITECTURES[architecture]}}
            ],
        }
    )
    names = ("com.apple.containerization.image.name", "io.containerd.image.name", "org.opencontainers.image.ref.name")
    top = _descriptor("application/vnd.oci.image.index.v1+json", inner) | {"annotations": dict.fromkeys(names, probe_reference(guest))}
    blobs = [(f"blobs/sha256/{_digest(blob)[7:]}", blob, 0o644) for blob in (layer, config, manifest, inner)]
    index = _json({"schemaVersion": 2, "manifests": [top]})
    return _tar([("oci-layout", _json({"imageLayoutVersion": "1.0.0"}), 0o644), ("index.json", index, 0o644), *blobs])


def _tar(files: list[tuple[str, bytes, int]]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, mode in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
