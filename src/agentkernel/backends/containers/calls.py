"""What is done with containers, by the interface that Docker and Podman share."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from agentkernel.backends._records import is_sandbox_id
from agentkernel.backends.containers.api import Api, EngineRefused
from agentkernel.backends.containers.plan import LABEL_OWNER, LABEL_SANDBOX, LABEL_SPEC, Entry, container_name

NOT_FOUND, CONFLICT, UNCHANGED = 404, 409, 304
_REMOVAL_S: Final = 30.0
_PAUSE_S: Final = 0.02
_STAT_HEADER: Final = "X-Docker-Container-Path-Stat"
_DIRECTORY, _LINK = 1 << 31, 1 << 27  # of Go's os.FileMode


class Kind(StrEnum):
    """What a path of a container is."""

    NONE = "nothing"
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container as the engine tells of it."""

    ident: str
    sandbox_id: str
    owner: str
    spec: str  # the fingerprint of the spec that it was made of
    running: bool
    pid: int = 0  # of its first process, as the engine's host sees it; 0: it does not run
    started: bool = True  # at least once
    layer: Path | None = None  # the directory of its own layer, where this process can look into it
    volumes: tuple[Path, ...] = ()  # likewise of the volumes that its image has it write to
    masked: frozenset[str] = frozenset()  # the paths that its engine hides, where it tells them
    said: str = ""  # why it ended


class Containers:
    """Calls of one engine about containers; each raises BackendUnavailable and, but for what is said, EngineRefused."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def find(self, name: str) -> Container | None:
        """The container, if there is one."""
        try:
            return _container(await self.api.call("GET", f"/containers/{name}/json"))
        except EngineRefused as refused:
            if refused.status == NOT_FOUND:
                return None
            raise

    async def owned(self, owner: str) -> Sequence[str]:
        """The sandbox ids of all containers with that owner's label, running or not.

        Labels are what whoever uses the engine says, and an image's become its containers': what they say counts only of a container that
        has a sandbox's name, since paths are made of it.
        """
        filters = {"label": [f"{LABEL_OWNER}={owner}"]}
        found = await self.api.call("GET", "/containers/json", query={"all": True, "filters": filters})
        return sorted(filter(None, map(_named_sandbox, found or ())))

    async def start(self, name: str) -> None:
        """Starts it; one that runs is fine."""
        await self.api.call("POST", f"/containers/{name}/start")

    async def kill(self, name: str) -> None:
        """Ends it and waits for its end; one that has ended, or is not there, is fine."""
        try:
            await self.api.call("POST", f"/containers/{name}/kill", query={"signal": "KILL"})
            await self.api.call("POST", f"/containers/{name}/wait", query={"condition": "not-running"}, deadline_s=_REMOVAL_S)
        except EngineRefused as refused:
            if refused.status not in (NOT_FOUND, CONFLICT, UNCHANGED, 500) or await self._runs(name):
                raise

    async def _runs(self, name: str) -> bool:
        found = await self.find(name)
        return found is not None and found.running

    async def remove(self, name: str) -> None:
        """Ends and removes it with its anonymous volumes and waits until it is gone; one that is not there is fine."""
        deadline = time.monotonic() + _REMOVAL_S
        while True:
            try:
                await self.api.call("DELETE", f"/containers/{name}", query={"force": True, "v": True})
            except EngineRefused as refused:
                if refused.status == NOT_FOUND:
                    return
                if refused.status != CONFLICT or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_PAUSE_S)  # somebody else is removing it
            else:
                return

    async def stat(self, name: str, path: str) -> dict[str, Any] | None:
        """What the engine tells of a path, of which a link at its end is not followed; None: it is not there."""
        try:
            header = await self.api.head(f"/containers/{name}/archive", _STAT_HEADER, query={"path": path})
        except EngineRefused as refused:
            if refused.status == NOT_FOUND:
                return None
            raise
        found = json.loads(base64.b64decode(header or "e30="))
        return found if isinstance(found, dict) else {}

    async def kind(self, name: str, path: str) -> Kind:
        """The same in a word."""
        found = await self.stat(name, path)
        if found is None:
            return Kind.NONE
        mode = int(found.get("mode") or 0)
        return Kind.LINK if mode & _LINK else Kind.DIRECTORY if mode & _DIRECTORY else Kind.FILE

    async def put(self, name: str, entries: Sequence[Entry]) -> None:
        """Puts directories and files into its own layer."""
        if entries:
            await self.api.call("PUT", f"/containers/{name}/archive", query={"path": "/"}, body=archive(entries))

    async def put_tree(self, name: str, target: str, chunks: Iterator[bytes]) -> None:
        """Unpacks a tar archive in a directory of it."""
        await self.api.upload("PUT", f"/containers/{name}/archive", chunks, query={"path": target})


def _named_sandbox(listed: dict[str, Any]) -> str:
    """The sandbox that a container of a list is; empty: none."""
    sandbox_id = str((listed.get("Labels") or {}).get(LABEL_SANDBOX, ""))
    names = {str(name).lstrip("/") for name in listed.get("Names") or ()}
    return sandbox_id if is_sandbox_id(sandbox_id) and container_name(sandbox_id) in names else ""


def archive(entries: Sequence[Entry]) -> bytes:
    """A tar archive."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            member = tarfile.TarInfo(entry.path.lstrip("/"))
            member.mode, member.uid, member.gid, member.mtime = entry.mode, entry.uid, entry.gid, int(time.time())
            if entry.content is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(entry.content)
            tar.addfile(member, io.BytesIO(entry.content or b""))
    return made.getvalue()


def _container(found: dict[str, Any]) -> Container:
    state, labels = found.get("State") or {}, (found.get("Config") or {}).get("Labels") or {}
    running = bool(state.get("Running"))
    return Container(
        ident=str(found.get("Id", "")),
        sandbox_id=str(labels.get(LABEL_SANDBOX, "")),
        owner=str(labels.get(LABEL_OWNER, "")),
        spec=str(labels.get(LABEL_SPEC, "")),
        running=running,
        pid=int(state.get("Pid") or 0) if running else 0,
        started=state.get("Status") not in ("created", "configured"),
        layer=_layer(found),
        volumes=tuple(_volumes(found)),
        masked=frozenset(map(str, (found.get("HostConfig") or {}).get("MaskedPaths") or ())),
        said=_end_of(state),
    )


def _layer(found: dict[str, Any]) -> Path | None:
    upper = str(((found.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir") or "")
    return _looked_into(upper)


def _volumes(found: dict[str, Any]) -> Iterator[Path]:
    for mount in found.get("Mounts") or ():
        if mount.get("Type") == "volume" and mount.get("RW") and (place := _looked_into(str(mount.get("Source") or ""))) is not None:
            yield place


def _looked_into(directory: str) -> Path | None:
    return Path(directory) if directory and os.access(directory, os.R_OK | os.X_OK) else None


def _end_of(state: dict[str, Any]) -> str:
    if state.get("OOMKilled"):
        return "it was out of memory"
    return str(state.get("Error") or "") or f"its first process ended with status {state.get('ExitCode', '?')}"
