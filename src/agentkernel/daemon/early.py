"""Frames about one command, checked; those that come before the command is there are kept until it is."""

from __future__ import annotations

import struct

from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import OFFSET, RESIZE, WORD, KillCause
from agentkernel.channel.relay import Relay
from agentkernel.model.command import TerminalSize


class Early:
    """What is to be told to a command that is still being started."""

    def __init__(self) -> None:
        self._kill: KillCause | None = None
        self._size: TerminalSize | None = None

    @property
    def is_killed(self) -> bool:
        """Whether a KILL came."""
        return self._kill is not None

    def keep(self, kind: int, payload: memoryview | bytes) -> bool:
        """Before the command is there; False for a frame that cannot be. Input and credit cannot precede it, and are dropped."""
        try:
            if kind == FrameType.KILL:
                self._kill = _cause_of(payload)
            elif kind == FrameType.RESIZE:
                self._size = _size_of(payload)
        except (ValueError, struct.error):
            return False
        return True

    def replay(self, relay: Relay) -> None:
        """The command is there."""
        if self._size is not None:
            relay.resize(self._size)
        if self._kill is not None:
            relay.kill(self._kill)

    def pass_on(self, relay: Relay, kind: int, flags: int, payload: memoryview | bytes) -> bool:
        """STDIN, CONSUMED, RESIZE or KILL for a command; False for one that cannot be."""
        if kind == FrameType.STDIN:
            if len(payload) < OFFSET.size or flags > 1:
                return False
            return relay.input(OFFSET.unpack_from(payload)[0], memoryview(payload)[OFFSET.size :], flags)
        try:
            if kind == FrameType.CONSUMED:
                return relay.consumed(flags, OFFSET.unpack(payload)[0])
            if kind == FrameType.KILL:
                relay.kill(_cause_of(payload))
            else:
                relay.resize(_size_of(payload))
        except (ValueError, struct.error):
            return False
        return True


def _cause_of(payload: memoryview | bytes) -> KillCause:
    return KillCause(WORD.unpack(payload)[0])


def _size_of(payload: memoryview | bytes) -> TerminalSize:
    rows, columns = RESIZE.unpack(payload)
    if not (rows and columns):
        raise ValueError("no terminal is that small")
    return TerminalSize(rows=rows, columns=columns)
