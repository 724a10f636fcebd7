"""Collecting a process's output up to a limit, while all of it is drained."""

from __future__ import annotations

from agentkernel.channel.process import GuestProcess


class Collector:
    """A sink that keeps the first `limit_bytes` of each stream."""

    __slots__ = ("_kept", "_limit_bytes", "_truncated")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept = (bytearray(), bytearray())
        self._truncated = [False, False]

    def __call__(self, stream: int, data: bytes | memoryview) -> None:
        """Takes one chunk."""
        kept = self._kept[stream - 1]
        room = self._limit_bytes - len(kept)
        if len(data) > room:
            self._truncated[stream - 1] = True
            data = data[: max(0, room)]
        kept += data

    def kept(self, stream: int) -> bytes:
        """The first bytes of stream 1 or 2."""
        return bytes(self._kept[stream - 1])

    def truncated(self, stream: int) -> bool:
        """Whether more came than was kept."""
        return self._truncated[stream - 1]


async def feed(process: GuestProcess, data: bytes) -> None:
    """Gives a process all of its input; returns early when it does not read it to the end."""
    if data:
        await process.write_stdin(data)
    await process.close_stdin()
