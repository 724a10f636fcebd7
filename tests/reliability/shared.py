"""What the campaign and the processes it kills have in common: a page of memory that outlives each of them."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_CLOCK = struct.Struct("=d")
_FIRED = struct.Struct("=Q")
_FIRED_AT = _CLOCK.size
SIZE = 4096


class Shared:
    """A file in memory: by how much the clock is wrong, and how often an armed failpoint was reached."""

    def __init__(self, path: Path) -> None:
        with open(path, "a+b") as file:
            os.ftruncate(file.fileno(), SIZE)
            self._memory = mmap.mmap(file.fileno(), SIZE)

    @property
    def clock_s(self) -> float:
        """Added to the time of day of the processes under test."""
        return float(_CLOCK.unpack_from(self._memory)[0])

    @clock_s.setter
    def clock_s(self, value: float) -> None:
        _CLOCK.pack_into(self._memory, 0, value)

    @property
    def fired(self) -> int:
        """How often an armed failpoint has acted."""
        return int(_FIRED.unpack_from(self._memory, _FIRED_AT)[0])

    @fired.setter
    def fired(self, value: int) -> None:
        _FIRED.pack_into(self._memory, _FIRED_AT, value)
