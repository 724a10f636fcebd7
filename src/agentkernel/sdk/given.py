"""What a program gives, in the one form that the kernel takes. A value of another kind is InvalidInput, wherever the kernel is. Pure."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Sequence

from agentkernel.errors import InvalidInput

Path = str | os.PathLike[str]
Bytes = bytes | bytearray | memoryview


def number(name: str, value: object) -> int:
    """A whole number as it is; its bounds are the kernel's business."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidInput(f"{name} wants a whole number, not {value!r}")


def moment(name: str, value: object) -> float:
    """A Unix time in seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise InvalidInput(f"{name} wants a Unix time in seconds, not {value!r}", hint="for example: time.time() - 60")


def text(name: str, value: object) -> str:
    """A text as it is."""
    if isinstance(value, str):
        return value
    raise InvalidInput(f"{name} wants a string, not {value!r}")


def texts(name: str, value: object) -> tuple[str, ...]:
    """A list of texts; a single one is none, though Python would take it for a list of letters."""
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return tuple(text(name, each) for each in value)
    raise InvalidInput(f"{name} wants a list of strings, not {value!r}", hint=f"for example: {name}=[{value!r}]")


def path(value: object) -> str:
    """A path inside as text: bytes of it that are no UTF-8 stay what they are."""
    if isinstance(value, str | bytes | os.PathLike):
        return os.fsdecode(value)
    raise InvalidInput(f"a path is a string or an os.PathLike, not {value!r}")


def data(name: str, value: object) -> bytes:
    """Bytes, or text as UTF-8."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise InvalidInput(f"{name} wants bytes or text, not {type(value).__name__}")


def contents(value: object) -> bytes | AsyncIterator[bytes]:
    """What a file is to hold: bytes, or pieces of them as they come. Text has an encoding, which is `write_text`'s to say."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, AsyncIterable):
        return _pieces(value)
    raise InvalidInput(f"a file is written of bytes or an iterable of bytes, not of {type(value).__name__}", hint="for text: write_text")


async def _pieces(source: AsyncIterable[object]) -> AsyncIterator[bytes]:
    async for piece in source:
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise InvalidInput(f"a file is written of bytes, not of pieces that are {type(piece).__name__}", hint="for text: write_text")
        yield bytes(piece)
