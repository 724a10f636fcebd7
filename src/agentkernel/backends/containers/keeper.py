"""The images that an engine keeps itself: found, pulled, imported, listed and removed through its interface. Implements `ImageKeeper`.

An image's digest is here the engine's own id of it, the digest of its configuration: the one name by which an engine can be told to use
exactly that image, whatever its other names stand for by now.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from agentkernel.abc_images import Report
from agentkernel.backends.containers.api import EngineRefused
from agentkernel.backends.containers.archive import tar_of_directory
from agentkernel.backends.containers.dialect import Momentary
from agentkernel.backends.containers.image_calls import (
    Facts,
    ImageCalls,
    Lines,
    canonical,
    config_of,
    facts_of,
    identity,
    loaded_of,
    login_headers,
    progress_of,
    pull_error,
)
from agentkernel.backends.containers.ledger import Entry, Ledger
from agentkernel.errors import Conflict, ImageFailed, InvalidInput, NotFound
from agentkernel.model.image import Image, ImageProgress, ImageRecord, ImageStage, PullPolicy

Logins = Callable[[str], Awaitable[tuple[str, str, str] | None]]
Users = tuple[tuple[str, int, int], ...]
_CHUNK_BYTES = 1024 * 1024
AT_ONCE = 4  # images that an engine is asked about at a time


class EngineImages:
    """One engine's. Making one costs nothing."""

    def __init__(self, calls: ImageCalls, backend: str, ledger: Ledger, momentary: Momentary) -> None:
        self._calls = calls
        self._backend = backend
        self._ledger = ledger
        self._momentary = momentary
        self._logins: Logins | None = None
        self._pulls: dict[tuple[str, str], _Pull] = {}
        self._users: dict[str, Users] = {}  # by id
        self._facts: dict[str, Facts] = {}  # by id, which is a digest: they never change

    def use_logins(self, logins: Logins) -> None:
        """From now on registries are told who the user is: (reference) -> (name, password, identity token), or None."""
        self._logins = logins

    # -- see `abc_images.ImageKeeper`

    async def find(self, reference: str) -> Image | None:
        """One inspection, and where the image names a user of its own who is no number, once its /etc/passwd."""
        found = await self._calls.inspect(reference)
        if found is None:
            return None
        self._ledger.used(reference)
        return await self._image(reference, found)

    async def obtain(self, reference: str, policy: PullPolicy, report: Report, *, platform: str = "") -> Image:
        """See `ImageKeeper.obtain`."""
        if policy is not PullPolicy.ALWAYS:
            found = await self.find(reference)
            if found is not None:
                return found
            if policy is PullPolicy.NEVER:
                hint = f"run `agentkernel image pull --backend {self._backend} {reference}`"
                raise NotFound(f"{self._backend} has no image {reference!r}", hint=hint)
        return await self._pulled_once(reference, platform, report)

    async def images(self) -> Sequence[ImageRecord]:
        """Every image that has a name, once for each of its names."""
        named = await self._calls.named()
        known = {image: self._facts[image] for image in named.values() if image in self._facts}
        slots = asyncio.Semaphore(AT_ONCE)

        async def look(image: str) -> None:
            async with slots:
                known[image] = facts_of(await self._calls.inspect(image) or {})

        await asyncio.gather(*(look(image) for image in dict.fromkeys(named.values()) if image not in known))
        self._facts = known
        entries = self._ledger.entries()
        records = [self._record(name, image, known[image], entries.get(name)) for name, image in named.items()]
        return sorted(records, key=lambda record: record.reference)

    async def import_image(self, path: str, reference: str, report: Report) -> Image:
        """See `ImageKeeper.import_image`: first as what `docker save` made, else as a file system."""
        kind = await asyncio.to_thread(_kind, path)
        report(ImageProgress(stage=ImageStage.UNPACKING, item=path))
        if kind == "directory":
            await self._import_files(tar_of_directory(path), reference)
        elif not await self._load(path, reference, report):
            await self._import_files(_chunks(path), reference)
        return await self._had(reference, is_ours=True)

    async def remove_image(self, reference: str) -> None:
        """See `ImageKeeper.remove_image`."""
        try:
            await self._calls.remove(reference)
        except EngineRefused as refused:
            if refused.status == 404:
                raise NotFound(f"{self._backend} has no image {reference!r}") from refused
            if refused.status == 409:
                raise Conflict(f"the image {reference!r} is in use: {refused.message}", hint="remove its sandboxes first") from refused
            raise
        self._ledger.forget(reference)

    async def prune_images(self, unused_for_s: float, in_use: Sequence[str]) -> Sequence[str]:
        """See `ImageKeeper.prune_images`; only images that came by this keeper go."""
        removed = []
        for reference, entry in self._ledger.entries().items():
            if entry.identity in in_use or self._ledger.age_s(entry) < unused_for_s:
                continue
            found = await self._calls.inspect(reference)
            if found is None or identity(found) != entry.identity:  # somebody else removed it, or gave its name away
                self._ledger.forget(reference)
                continue
            with contextlib.suppress(Conflict, NotFound):  # a container of somebody else's uses it; it went meanwhile
                await self.remove_image(reference)
                removed.append(f"{self._backend}: {reference}")
        return removed

    # -- pulling

    async def _pulled_once(self, reference: str, platform: str, report: Report) -> Image:
        """Whoever asks meanwhile waits for the one pull and is told of its progress; it goes on as long as anybody waits."""
        key = (reference, platform)
        pull = self._pulls.get(key)
        if pull is None:
            pull = self._pulls[key] = _Pull()
            pull.work = asyncio.ensure_future(self._pull(reference, platform, pull.tell))
            pull.work.add_done_callback(lambda _: self._pulls.pop(key))
        return await pull.wait(report)

    async def _pull(self, reference: str, platform: str, report: Report) -> Image:
        report(ImageProgress(stage=ImageStage.RESOLVING, item=reference))
        login = await self._logins(reference) if self._logins is not None else None
        is_ours = reference in self._ledger.entries() or await self._calls.inspect(reference) is None
        try:
            async for line in self._calls.pull(reference, platform, login_headers(reference, login)):
                if line.get("error"):
                    raise pull_error(str(line["error"]), reference)
                report(progress_of(line))
        except EngineRefused as refused:
            raise pull_error(refused.message, reference) from refused
        return await self._had(reference, is_ours=is_ours)

    # -- importing

    async def _load(self, path: str, reference: str, report: Report) -> bool:
        """Whether the archive held an image. The names that it brought along are taken from it again: they are its maker's choice."""
        before = await self._calls.named()
        loaded: list[str] = []
        with contextlib.suppress(EngineRefused):
            async for line in self._calls.load(_chunks(path)):
                if line.get("error"):
                    break
                report(ImageProgress(stage=ImageStage.UNPACKING, item=str(line.get("stream", "")).strip()))
                loaded += loaded_of(line)
        if loaded:
            await self._rename(loaded, reference, before)
        return bool(loaded)

    async def _rename(self, loaded: Sequence[str], reference: str, before: Mapping[str, str]) -> None:
        """Names the archive's image; only names that the archive brought are touched: others may have changed meanwhile, by their users."""
        images = {name: identity(found) for name in loaded if (found := await self._calls.inspect(name)) is not None}
        if not images:
            raise ImageFailed(f"{self._backend} does not have what it says that it loaded")
        brought = {canonical(name): image for name, image in images.items() if not name.startswith("sha256:")}
        chosen = brought.get(reference) or (next(iter(images.values())) if len(set(images.values())) == 1 else "")
        if chosen:
            await self._calls.tag(chosen, reference)
        for name, image in brought.items():
            if before.get(name) == image or (chosen and name == reference):
                continue
            if name in before:
                await self._calls.tag(before[name], name)
            else:
                await self._calls.remove(name)
        if not chosen:
            hint = f"give it the name of one: {', '.join(sorted(brought)[:8])}" if brought else "save one image alone"
            raise InvalidInput(f"there are {len(images)} images in it, and none of them is {reference}", hint=hint)

    async def _import_files(self, chunks: Iterator[bytes], reference: str) -> None:
        try:
            said = await _last_error(self._calls.import_files(chunks, reference))
        except EngineRefused as refused:
            said = refused.message
        if said:
            raise InvalidInput(f"{self._backend} cannot import it: {said}", hint="give it a tar archive of a file system, or a directory")

    # -- what the engine knows

    async def _had(self, reference: str, *, is_ours: bool) -> Image:
        """What has come; an image that its user had already under that name stays the user's."""
        found = await self._calls.inspect(reference)
        if found is None:
            raise ImageFailed(f"{self._backend} does not have {reference!r} although it says so", hint="see the engine's own log")
        image = await self._image(reference, found)
        if is_ours:
            self._ledger.obtained(reference, image.digest, image.users)
        return image

    async def _image(self, reference: str, found: Mapping[str, Any]) -> Image:
        config, image = config_of(found), identity(found)
        name = config.user.partition(":")[0]
        users = await self._users_of(reference, image) if name and name != "root" and not name.isdecimal() else ()
        return Image(reference=reference, digest=image, config=config, users=users)

    async def _users_of(self, reference: str, image: str) -> Users:
        """Of its /etc/passwd, read once: a container is made of it, never started, and removed again."""
        if image not in self._users:
            entry = self._ledger.entries().get(reference)
            known = entry.users if entry is not None and entry.identity == image else ()
            self._users[image] = known or await self._read_users(image)
        return self._users[image]

    async def _read_users(self, image: str) -> Users:
        async with self._momentary({"Image": image, "Cmd": ["-"], "HostConfig": {"NetworkMode": "none"}}) as container:
            return await self._calls.users_in(container)

    def _record(self, name: str, image: str, facts: Facts, entry: Entry | None) -> ImageRecord:
        known = entry if entry is not None and entry.identity == image else None
        return ImageRecord(
            reference=name,
            digest=image,
            size_bytes=facts.size_bytes,
            obtained_at=known.obtained_at if known else 0.0,
            used_at=known.used_at if known else 0.0,
            platform=facts.platform,
            backend=self._backend,
        )


class _Pull:
    """One pull, and who waits for it."""

    work: asyncio.Future[Image]

    def __init__(self) -> None:
        self._reports: list[Report] = []

    def tell(self, progress: ImageProgress) -> None:
        for report in self._reports:
            report(progress)

    async def wait(self, report: Report) -> Image:
        """Ends the pull when the last one who waits for it is cancelled."""
        self._reports.append(report)
        try:
            return await asyncio.shield(self.work)
        finally:
            self._reports.remove(report)
            if not self._reports and not self.work.done():
                self.work.cancel()
                await asyncio.wait([self.work])


async def _last_error(lines: Lines) -> str:
    """Reads to the end; what the engine says went wrong, or nothing."""
    said = ""
    async for line in lines:
        said = str(line.get("error") or said)
    return said


def _kind(path: str) -> str:
    if os.path.isdir(path):
        return "directory"
    if not os.path.isfile(path):
        raise NotFound(f"there is no file or directory {path!r}")
    return "file"


def _chunks(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
