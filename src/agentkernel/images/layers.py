"""Unpacks the layers of an image, the lowest first, into one directory (OCI image specification, "Image Layer Filesystem Changeset").

A layer adds and replaces; `.wh.NAME` removes NAME, and `.wh..wh..opq` all else in its directory, of the layers below and never of its own.
Where a lower layer has a symbolic link in the place of a directory (`lib -> usr/lib`), what an upper one has beneath that name goes where
the link leads, as in containerd; links are followed beneath the root alone. Imports only the standard library: it runs inside a sandbox.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, field
from typing import ClassVar

from agentkernel.images.beneath import DIRECTORY, Parts
from agentkernel.images.decompress import Source
from agentkernel.images.tarstream import Entry
from agentkernel.images.unpacker import Tally, Unpacker, mode_at, shown
from agentkernel.tarformat import BadArchiveError

WHITEOUT, OPAQUE = b".wh.", b".wh..wh..opq"
_METADATA = b".wh..wh."  # of AUFS: `.wh..wh.plnk` and the like describe no file of the image


@dataclass(slots=True)
class LayerUnpacker(Unpacker):
    """Unpacks one layer after the other beneath the open directory `root`, which is empty at first."""

    follows: ClassVar[bool] = True

    # Hashes of the places that this layer has brought, with all directories above. Python's are 64 bits and salted, so that no archive can
    # choose two of the same; one set of them for two million entries takes 130 MiB, and of names many times that.
    _own: set[int] = field(default_factory=set)

    def unpack(self, source: Source) -> Tally:
        """Unpacks one more layer, to the very end of its bytes; raises BadArchiveError, and leaves what was unpacked until then."""
        self._own.clear()
        try:
            self._entries(source)
            source.drain()
        except RecursionError:
            raise BadArchiveError("the image has directories within directories without end") from None
        finally:
            self._leave()
        return self.tally

    def _one(self, entry: Entry, parts: Parts, source: Source) -> None:
        if any(part.startswith(_METADATA) and part != OPAQUE for part in parts):
            source.skip(entry.size)
        elif any(part.startswith(WHITEOUT) for part in parts[:-1]):
            raise BadArchiveError(f"the layer has entries beneath {shown(parts)}, which is a mark of what is removed")
        elif parts and parts[-1].startswith(WHITEOUT):
            source.skip(entry.size)
            self._whiteout(parts[:-1], parts[-1])
        else:
            # (not super(): a dataclass with slots is another class than the one that this method was written in)
            Unpacker._one(self, entry, parts, source)

    def _whiteout(self, directory: Parts, mark: bytes) -> None:
        name = mark.removeprefix(WHITEOUT)
        if name in {b"", b".", b".."}:
            raise BadArchiveError(f"the layer removes {shown((*directory, name))}, which is no name")
        try:
            place, parent = self._enter(directory, create=False)
        except FileNotFoundError:
            return  # nothing there to hide
        names = os.listdir(parent) if mark == OPAQUE else [os.fsdecode(name)]
        for each in map(os.fsencode, names):
            self._hide((*place, each), parent)

    def _hide(self, whole: Parts, parent: int) -> None:
        """Removes what the layers below have at this place."""
        try:
            is_directory = stat.S_ISDIR(mode_at(whole[-1], parent))
        except FileNotFoundError:
            return
        if not self._is_own(whole):
            _remove(whole[-1], parent, is_directory)
        elif is_directory:
            inner = os.open(whole[-1], DIRECTORY, dir_fd=parent)
            try:
                for name in map(os.fsencode, os.listdir(inner)):
                    self._hide((*whole, name), inner)
            finally:
                os.close(inner)

    def _clear(self, whole: Parts, parent: int) -> None:
        if self._is_own(whole):
            Unpacker._clear(self, whole, parent)
        else:
            self._hide(whole, parent)

    def _brought(self, whole: Parts) -> None:
        for length in range(len(whole), 0, -1):
            place = hash(whole[:length])
            if place in self._own:
                return
            self._own.add(place)

    def _is_own(self, whole: Parts) -> bool:
        return hash(whole) in self._own


def _remove(name: bytes, parent: int, is_directory: bool) -> None:
    """Removes a file, a link, or a whole tree; shutil's goes by descriptors and follows no link."""
    if is_directory:
        shutil.rmtree(name, dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)
