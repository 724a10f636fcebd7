"""Output within a bound: its beginning and its end, and a line that says how much is missing between them."""

from __future__ import annotations

from typing import Final

HALF_BYTES: Final = 8 * 1024
_CONTINUATION: Final = range(0x80, 0xC0)  # bytes within a UTF-8 sequence


class Clip:
    """Takes bytes without end and keeps the first and the last `half` of them."""

    def __init__(self, half: int = HALF_BYTES) -> None:
        self._half = half
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """Takes more."""
        self.total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room] if room > 0 else b""
        self._tail += data[max(room, 0) :]
        if len(self._tail) > self._half:
            del self._tail[: -self._half]

    @property
    def missing(self) -> int:
        """How many bytes are left out."""
        return self.total - len(self._head) - len(self._tail)

    def text(self) -> str:
        """All of it, or its two ends around a line about what is missing; what is no UTF-8 is replaced."""
        if not self.missing:
            return bytes(self._head + self._tail).decode("utf-8", "replace")
        head, tail = _whole_end(bytes(self._head)), _whole_start(bytes(self._tail))
        missing = self.total - len(head) - len(tail)
        return f"{head.decode('utf-8', 'replace')}\n[... {missing} bytes left out ...]\n{tail.decode('utf-8', 'replace')}"


def _whole_end(data: bytes) -> bytes:
    """Without the beginning of a character that the cut went through."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte not in _CONTINUATION:
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return data[:-back] if length > back else data
    return data


def _whole_start(data: bytes) -> bytes:
    """Without the rest of a character that the cut went through."""
    start = next((place for place, byte in enumerate(data[:4]) if byte not in _CONTINUATION), 0)
    return data[start:]
