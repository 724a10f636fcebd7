"""What a command prints, kept for its answer: as much of each stream as was asked for, as far as the server's memory goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentkernel.abc import Process
from agentkernel.api.budget import Share
from agentkernel.channel.gather import taken
from agentkernel.model.command import Command, ExitStatus

SURE_BYTES: Final = 64 << 10  # that every command's output has, of both streams together


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A command that ended, and the first bytes of what it printed."""

    status: ExitStatus
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool
    stderr_truncated: bool
    was_short: bool  # the server's memory was, and so less was kept than the command may have

    @property
    def size_bytes(self) -> int:
        """How much it holds."""
        return len(self.stdout) + len(self.stderr)


def reserved(share: Share, command: Command) -> None:
    """Makes sure that there is room for a little output, before anything is done; raises Busy."""
    share.reserve(min(2 * command.output_limit_bytes, SURE_BYTES))


async def kept(process: Process, data: bytes, command: Command, share: Share) -> Kept:
    """Gives a command its input and keeps its output, counted in `share`; kills it when that fails or the caller gives up."""
    streams = _Stream(command.output_limit_bytes), _Stream(command.output_limit_bytes)
    status = await taken(process, data or None, lambda stream, piece: streams[stream - 1].add(piece, share))
    return Kept(
        status=status,
        stdout=bytes(streams[0].data),
        stderr=bytes(streams[1].data),
        stdout_truncated=streams[0].is_truncated,
        stderr_truncated=streams[1].is_truncated,
        was_short=streams[0].was_short or streams[1].was_short,
    )


class _Stream:
    """The beginning of one stream, without gaps."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.data = bytearray()
        self.is_truncated = False
        self.was_short = False

    def add(self, piece: bytes, share: Share) -> None:
        if self.was_short:
            return
        wanted = min(len(piece), self._most - len(self.data))
        got = share.take(wanted)
        self.data += piece[:got]
        self.was_short = got < wanted
        self.is_truncated = self.is_truncated or got < len(piece)
