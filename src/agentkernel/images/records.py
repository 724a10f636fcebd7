"""Which image each name stands for, as small files; a file replaces another whole, so that no reader sees a half.

<directory>/<SHA-256 of the name>.json       its time of change is when the image was last used
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from agentkernel.failpoints import failpoint
from agentkernel.model.image import ImageRecord

MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one name stands for, and what of the store it needs."""

    reference: str
    digest: str  # of the manifest, or of the archive that was imported
    source_digest: str = ""  # what the registry calls it: of the index, if it is one
    platform: str = ""
    blobs: tuple[str, ...] = ()  # digests of documents and layers
    size_bytes: int = 0
    obtained_at: float = 0.0
    used_at: float = 0.0  # the file's time of change; not in it

    def shown(self) -> ImageRecord:
        """As `image list` shows it."""
        return ImageRecord(
            reference=self.reference,
            digest=self.digest,
            size_bytes=self.size_bytes,
            obtained_at=self.obtained_at,
            used_at=self.used_at,
            platform=self.platform,
        )


class Records:
    """The records of one store."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def get(self, reference: str) -> Record | None:
        """What a name stands for; None: nothing, or its file is damaged."""
        return _read(self._path(reference))

    def put(self, record: Record) -> None:
        """Has the name stand for that from now on; raises OSError."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        fields: dict[str, Any] = asdict(record)
        del fields["used_at"]
        path = self._path(record.reference)
        fresh = f"{path}.{os.urandom(4).hex()}"
        try:
            with open(fresh, "w") as file:
                file.write(json.dumps(fields))
                file.flush()
                os.fsync(file.fileno())
            failpoint("images.record.written")
            os.replace(fresh, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(fresh)
            raise

    def touch(self, reference: str) -> None:
        """Notes that the image is used now."""
        with suppress(FileNotFoundError):
            os.utime(self._path(reference))

    def remove(self, reference: str) -> bool:
        """Forgets the name; whether there was one."""
        try:
            os.unlink(self._path(reference))
        except FileNotFoundError:
            return False
        return True

    def remove_rests(self) -> None:
        """Removes what crashes left; the caller has seen to it that nobody is writing."""
        with suppress(FileNotFoundError):
            for name in os.listdir(self._directory):
                if not name.endswith(".json"):
                    os.unlink(f"{self._directory}/{name}")

    def all(self) -> Iterator[Record]:
        """All records, by name."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return
        found = (_read(f"{self._directory}/{name}") for name in names if name.endswith(".json"))
        yield from sorted((record for record in found if record is not None), key=lambda record: record.reference)

    def _path(self, reference: str) -> str:
        return f"{self._directory}/{hashlib.sha256(reference.encode()).hexdigest()}.json"


def _read(path: str) -> Record | None:
    try:
        with open(path, "rb") as file:
            used_at = os.fstat(file.fileno()).st_mtime
            fields = json.loads(file.read(MAX_BYTES))
        return Record(**{**fields, "blobs": tuple(fields["blobs"]), "used_at": used_at})
    except (OSError, ValueError, KeyError, TypeError):
        return None
