"""Remembers what probes found, so that a run does not build two sandboxes to use one.

An entry holds for one standing (boot, kernel, user and groups, version, guest binary, cgroup, namespaces), for the very program or socket
that the backend was found by, and until a sandbox cannot be built by it: for an hour if the backend was ready, for ten minutes if not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Runtime, Support

MAX_AGE_S = 3600
UNREADY_AGE_S = 600
_MAX_ENTRIES = 32
_MAX_BYTES = 1024 * 1024
_FILE = "fingerprints.json"


class FingerprintCache:
    """The file `fingerprints.json` of the cache directory. Whatever is wrong with it, it is only a cache: then there is nothing in it."""

    def __init__(self, directory: str, standing: Callable[[], str], clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._path = f"{directory}/{_FILE}"
        self._make_standing = standing
        self._standing_text: str | None = None
        self._clock = clock
        self._seen: tuple[tuple[int, ...], dict[str, dict[str, Any]]] | None = None  # which file was read last, and what was in it
        self._parsed: dict[str, Fingerprint] = {}  # of that file, by key

    def get(self, backend: str, identity: str) -> Fingerprint | None:
        """What the last probe found, if the backend was ready and that still holds; `identity` is that of its `Presence`."""
        found = self._find(backend, identity, MAX_AGE_S)
        return found if found is not None and found.ready else None

    def unready(self, backend: str, identity: str) -> Fingerprint | None:
        """The same of a backend that was not ready: reason enough to pass over it, none to refuse it."""
        found = self._find(backend, identity, UNREADY_AGE_S)
        return found if found is not None and not found.ready else None

    def put(self, fingerprint: Fingerprint, identity: str) -> None:
        """Remembers what a probe has found."""
        entries = self._read()
        key = self._key(fingerprint.backend)
        entries[key] = {"at": self._clock(), "identity": identity, "fingerprint": to_json(fingerprint)}
        newest = sorted(entries.items(), key=lambda item: item[1]["at"], reverse=True)[:_MAX_ENTRIES]
        self._write(dict(newest))

    def forget(self, backend: str) -> None:
        """Drops what is remembered: a sandbox could not be built by it."""
        entries = self._read()
        if entries.pop(self._key(backend), None) is not None:
            self._write(entries)

    def _find(self, backend: str, identity: str, max_age_s: float) -> Fingerprint | None:
        key = self._key(backend)
        entry = self._read().get(key)
        if entry is None or entry.get("identity") != identity or not 0 <= self._clock() - entry["at"] <= max_age_s:
            return None
        found = self._parsed.get(key)
        if found is None:
            try:
                found = self._parsed[key] = from_json(entry["fingerprint"])
            except (KeyError, TypeError, ValueError, AttributeError):
                return None
        return found if found.backend == backend else None

    def _key(self, backend: str) -> str:
        if self._standing_text is None:
            self._standing_text = self._make_standing()
        return f"{backend}\n{self._standing_text}"

    def _read(self) -> dict[str, dict[str, Any]]:
        """The entries; a file that has not changed is not parsed again."""
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
                if self._seen is None or self._seen[0] != version:
                    self._seen, self._parsed = (version, _entries(json.loads(file.read(_MAX_BYTES)))), {}
        except (OSError, ValueError, RecursionError):
            return {}
        return dict(self._seen[1])

    def _write(self, entries: Mapping[str, object]) -> None:
        """Replaces the file as a whole; of two writers at once one wins, which costs the other a probe."""
        temporary = f"{self._path}.{os.getpid()}"
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
                file.write(json.dumps(entries))  # json.dump would take the encoder written in Python
            os.replace(temporary, self._path)
        except OSError:
            return


def _entries(found: object) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict):
        return {}
    return {
        str(key): value
        for key, value in found.items()
        if isinstance(value, dict) and isinstance(value.get("at"), int | float) and isinstance(value.get("fingerprint"), dict)
    }


def to_json(fingerprint: Fingerprint) -> dict[str, Any]:
    """A fingerprint as JSON: levels and features by the names that users read."""
    return {
        "backend": fingerprint.backend,
        "ready": fingerprint.ready,
        "isolation": fingerprint.level.label,
        "reason": fingerprint.reason,
        "remedy": fingerprint.remedy,
        "features": _features_json(fingerprint.features),
        "runtimes": [
            {"name": runtime.name, "isolation": runtime.level.label, "features": _features_json(runtime.features)}
            for runtime in fingerprint.runtimes
        ],
        "details": fingerprint.details,
    }


def from_json(record: Mapping[str, Any]) -> Fingerprint:
    """The reverse; raises KeyError, TypeError, ValueError or AttributeError for anything else."""
    return Fingerprint(
        backend=str(record["backend"]),
        ready=record["ready"] is True,
        level=_level(record["isolation"]),
        reason=str(record["reason"]),
        remedy=str(record["remedy"]),
        features=_features(record["features"]),
        runtimes=tuple(
            Runtime(name=str(runtime["name"]), level=_level(runtime["isolation"]), features=_features(runtime["features"]))
            for runtime in record["runtimes"]
        ),
        details={str(name): str(value) for name, value in record["details"].items()},
    )


def _level(label: object) -> IsolationLevel:
    return IsolationLevel[str(label).upper().replace("-", "_")]


def _features_json(features: Mapping[Feature, Provision]) -> dict[str, dict[str, str]]:
    return {
        feature.value: {"support": provision.support.value, "reason": provision.reason, "remedy": provision.remedy}
        for feature, provision in features.items()
    }


def _features(record: Mapping[str, Any]) -> dict[Feature, Provision]:
    return {
        Feature(name): Provision(support=Support(found["support"]), reason=str(found["reason"]), remedy=str(found["remedy"]))
        for name, found in record.items()
    }
