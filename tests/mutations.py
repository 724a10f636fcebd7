"""Bytes that were right, damaged a little: what the fuzz tests of parsers feed."""

from __future__ import annotations

import random
from collections.abc import Callable


def mutated(source: random.Random, data: bytes, *, most: int = 3, byte: Callable[[], int] | None = None) -> bytes:
    """`data`, not empty, with one to `most` changes: a byte replaced (by `byte()`, else any), the rest cut off, noise put in, a bit turned."""
    changed = bytearray(data)
    for _ in range(source.randrange(1, most + 1)):
        at = source.randrange(len(changed))
        match source.randrange(4):
            case 0:
                changed[at] = source.randrange(256) if byte is None else byte()
            case 1:
                del changed[at + 1 :]
            case 2:
                changed[at:at] = source.randbytes(source.randrange(1, 5))
            case _:
                changed[at] ^= 1 << source.randrange(8)
    return bytes(changed)
