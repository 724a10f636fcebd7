"""agentkernel's own store of images: whatever backend needs an unpacked root file system gets it from here, without any engine.

<directory>/lock         held, shared, while an image comes; who removes what no name needs any more holds it alone
<directory>/names/       `images.records`: which image a name stands for
<directory>/blobs/       `images.blobs`: layers and documents by digest
<directory>/rootfs/      `images.roots`: unpacked images by digest

Several processes of one user share it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Protocol

from agentkernel.abc_images import Report
from agentkernel.errors import Conflict, ImageFailed, NotFound
from agentkernel.failpoints import failpoint
from agentkernel.images import platforms, rooms
from agentkernel.images.archives import Archives
from agentkernel.images.blobs import Blobs, digest_of
from agentkernel.images.credentials import Credentials, Login
from agentkernel.images.flights import Flights
from agentkernel.images.locks import held, try_hold
from agentkernel.images.manifest import Manifest, parse_configuration, parse_document
from agentkernel.images.pull import Fetched, fetch
from agentkernel.images.records import Record, Records
from agentkernel.images.reference import Reference, is_digest, parse
from agentkernel.images.roots import Roots, Unpack, make_passable
from agentkernel.images.source import Source
from agentkernel.images.threads import to_its_end
from agentkernel.images.unpack import layer_options
from agentkernel.model.image import Image, ImageProgress, ImageRecord, ImageStage, PullPolicy
from agentkernel.units import format_size

PARTS_KEPT_S = 7 * 24 * 3600.0  # what has come of a blob that nobody has asked for since


class RegistrySource(Source, Protocol):
    """A registry: `images.registry.Registry`."""

    least_bytes_per_s: int  # slower than that it need not be waited for

    async def digest(self, asked: str) -> str:
        """The digest that a tag stands for now; empty if the registry does not say."""
        ...


class OpenRegistry(Protocol):
    """Makes one; the module of it is imported with the first call."""

    def __call__(
        self, reference: Reference, login: Login | None, environment: Mapping[str, str], home: str
    ) -> AbstractAsyncContextManager[RegistrySource]: ...


class Library:
    """The images of one user. Implements `abc_images.ImageKeeper`."""

    def __init__(
        self,
        directory: str,
        *,
        unpack: Unpack,
        registry: OpenRegistry,
        environment: Mapping[str, str],
        home: str,
        in_use: Callable[[], Awaitable[Collection[str]]],
    ) -> None:
        """`in_use`: digests and directories that sandboxes of this process need; other processes' are known by their locks."""
        self._directory = os.path.realpath(directory)  # backends follow no links
        self._registry = registry
        self._environment = environment
        self._home = home
        self._in_use = in_use
        self._blobs = Blobs(f"{self._directory}/blobs")
        self._records = Records(f"{self._directory}/names")
        self._roots = Roots(f"{self._directory}/rootfs", unpack)
        self._archives = Archives(self._roots, self._blobs)
        self._flights = Flights()

    def close(self) -> None:
        """Says that no sandbox of this process uses an image any more."""
        self._roots.close()

    def keep(self, digests: Collection[str]) -> None:
        """Says that sandboxes of this process need the images of those digests: until `close` no other process removes them."""
        for digest in filter(is_digest, digests):
            self._roots.find(digest, "")

    async def obtain(self, reference: str, policy: PullPolicy, report: Report, *, platform: str = "") -> Image:
        """See `abc_images.ImageKeeper.obtain`. One name stands for one platform at a time: another one is another pull."""
        wanted = platforms.parse(platform)
        if policy is not PullPolicy.ALWAYS:
            image = await self._present(reference, wanted if platform else None, report)
            if image is not None:
                return image
            if policy is PullPolicy.NEVER:
                raise NotFound(f"the image {parse(reference).short} is not here", hint=f"agentkernel image pull {parse(reference).short}")
        return await self._flights.join((reference, str(wanted)), lambda told: self._pull(parse(reference), wanted, told), report)

    async def find(self, reference: str) -> Image | None:
        """The image, if it is here and unpacked."""
        record = self._records.get(reference)
        image = self._roots.find(record.digest, reference) if record is not None else None
        if image is not None:
            self._records.touch(reference)
        return image

    async def images(self) -> Sequence[ImageRecord]:
        """All that are here, by reference."""
        return [record.shown() for record in await asyncio.to_thread(lambda: list(self._records.all()))]

    async def import_image(self, path: str, reference: str, report: Report) -> Image:
        """See `abc_images.ImageKeeper.import_image`."""
        name = str(parse(reference))
        async with self._coming():
            report(ImageProgress(stage=ImageStage.UNPACKING, item=path))
            imported = await self._archives.take(path, name, report)
            if isinstance(imported, Fetched):
                return await self._unpacked(name, imported, str(platforms.of_host()), report)
            return await self._named(imported)

    async def remove_image(self, reference: str) -> None:
        """See `abc_images.ImageKeeper.remove_image`."""
        record = self._records.get(reference)
        if record is None:
            raise NotFound(f"there is no image {reference!r} here", hint="see `agentkernel image list`")
        in_use = await self._in_use()
        is_last = not any(other.digest == record.digest and other.reference != reference for other in self._records.all())
        if is_last and self._is_needed(record, in_use):
            raise Conflict(f"sandboxes use the image {reference}", hint="remove them first: see `agentkernel list`")
        if is_last:
            await asyncio.to_thread(self._roots.remove, record.digest)
        self._records.remove(reference)
        failpoint("images.remove.forgotten")
        await asyncio.to_thread(self._collect, in_use)

    async def prune_images(self, unused_for_s: float, in_use: Sequence[str]) -> Sequence[str]:
        """See `abc_images.ImageKeeper.prune_images`."""
        needed = {*in_use, *await self._in_use()}
        return await asyncio.to_thread(self._prune, unused_for_s, needed)

    async def _present(self, reference: str, platform: platforms.Platform | None, report: Report) -> Image | None:
        """What is here of that name, unpacked anew if it no longer is."""
        record = self._records.get(reference)
        if record is None or (platform is not None and record.platform and record.platform != str(platform)):
            return None
        image = await self.find(reference)
        if image is not None:
            return image
        fetched = await asyncio.to_thread(self._from_blobs, record)
        if fetched is None:
            return None
        async with self._coming():
            return await self._unpacked(reference, fetched, record.platform, report)

    async def _pull(self, reference: Reference, platform: platforms.Platform, report: Report) -> Image:
        name = str(reference)
        report(ImageProgress(stage=ImageStage.RESOLVING, item=name))
        login = await Credentials(self._environment, self._home).login_for(reference)
        async with self._coming(), self._registry(reference, login, self._environment, self._home) as registry:
            record = self._records.get(name)
            if record is not None and record.platform == str(platform) and record.source_digest:
                now = reference.digest or await registry.digest(reference.asked)
                image = await self._present(name, platform, report) if now == record.source_digest else None
                if image is not None:
                    return image
            first = await registry.document(reference.asked)
            if reference.digest and digest_of(first.data) != reference.digest:
                raise ImageFailed(f"{reference.registry} sent another image than {reference.digest[:19]}", hint="try again")
            fetched = await fetch(registry, first, self._blobs.paced(registry.least_bytes_per_s), platform, report)
            return await self._unpacked(name, fetched, str(platform), report)

    async def _unpacked(self, reference: str, fetched: Fetched, platform: str, report: Report) -> Image:
        if self._roots.find(fetched.digest, reference) is None:
            report(ImageProgress(stage=ImageStage.UNPACKING, item=reference))
            paths = [self._blobs.path(layer.digest) for layer in fetched.layers]
            options = layer_options(fetched.configuration.diff_ids)
            await self._roots.make(fetched.digest, options, paths, fetched.configuration.config)
        return await self._named(
            Record(
                reference=reference,
                digest=fetched.digest,
                source_digest=fetched.source_digest,
                platform=platform,
                blobs=tuple(dict.fromkeys((*fetched.documents, *(layer.digest for layer in fetched.layers)))),
                size_bytes=sum(layer.size_bytes for layer in {layer.digest: layer for layer in fetched.layers}.values()),
            )
        )

    async def _named(self, record: Record) -> Image:
        """Has the name stand for an image that is unpacked now."""
        image = self._roots.find(record.digest, record.reference)
        if image is None:
            raise ImageFailed(f"the image {record.reference} was removed while it came", hint="try again")
        await to_its_end(self._records.put, replace(record, obtained_at=time.time()))
        return image

    def _from_blobs(self, record: Record) -> Fetched | None:
        """What is needed to unpack the image once more; None: not all of it is here."""
        data = self._blobs.document(record.digest)
        if data is None:
            return None
        manifest = parse_document(data)
        configured = self._blobs.document(manifest.config.digest) if isinstance(manifest, Manifest) else None
        if not isinstance(manifest, Manifest) or configured is None or not all(map(self._blobs.verified, manifest.layers)):
            return None
        documents = tuple(digest for digest in record.blobs if digest not in {layer.digest for layer in manifest.layers})
        return Fetched(
            digest=record.digest,
            source_digest=record.source_digest,
            documents=documents,
            layers=manifest.layers,
            configuration=parse_configuration(configured),
        )

    @asynccontextmanager
    async def _coming(self) -> AsyncIterator[None]:
        """While an image comes, nothing is removed that no name needs yet. What the disk refuses is an error of ours."""
        try:
            make_passable(self._directory)
            async with held(f"{self._directory}/lock", shared=True):
                yield
        except OSError as error:
            raise ImageFailed(f"the store of images in {self._directory} fails: {error.strerror}", hint="is the disk full?") from error

    def _is_needed(self, record: Record, in_use: Collection[str]) -> bool:
        return record.digest in in_use or self._roots.directory(record.digest) in in_use

    def _prune(self, unused_for_s: float, in_use: Collection[str]) -> list[str]:
        lines = []
        for record in self._records.all():
            if time.time() - max(record.used_at, record.obtained_at) < unused_for_s or self._is_needed(record, in_use):
                continue
            others = [other for other in self._records.all() if other.digest == record.digest and other.reference != record.reference]
            try:
                if not others:
                    self._roots.remove(record.digest)
            except Conflict:
                continue  # another process uses it
            self._records.remove(record.reference)
            lines.append(record.reference)
        freed = self._blobs.remove_parts(min(unused_for_s, PARTS_KEPT_S)) + self._collect(in_use)
        return [*lines, f"layers that no image needs: {format_size(freed)}"] if freed else lines

    def _collect(self, in_use: Collection[str]) -> int:
        """Removes what no name needs, unless an image is coming just now; returns how many bytes of blobs that frees."""
        make_passable(self._directory)
        lock = try_hold(f"{self._directory}/lock")
        if lock is None:
            return 0  # the next time then
        try:
            records = list(self._records.all())
            named, needed = {record.digest for record in records}, {digest for record in records for digest in record.blobs}
            for digest in self._roots.digests():
                if digest not in named and not {digest, self._roots.directory(digest)} & set(in_use):
                    self._roots.remove_unused(digest)
            self._roots.remove_rests()
            rooms.sweep(self._directory)
            self._records.remove_rests()
            return sum(self._blobs.remove(digest) for digest in self._blobs.names() if digest not in needed)
        finally:
            os.close(lock)
