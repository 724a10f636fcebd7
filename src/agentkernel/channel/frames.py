"""The framing of the guest protocol (docs/guest-protocol.md, sections 1 and 2): bytes in, bytes out, no I/O.

The daemon's local socket speaks the same framing. Whatever a peer sends, a decoder holds at most its fixed buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from agentkernel.channel.wire import (
    AGENT_MAGIC,
    HEADER,
    HELLO,
    HELLO_REPLY,
    HOST_MAGIC,
    MAX_FRAME,
    MAX_PAYLOAD,
    TAG,
    tag_of,
)
from agentkernel.errors import ProtocolViolation

MAX_STALE_BYTES: Final = 64 * 1024 * 1024  # before the HELLO_REPLY; a ring of every process of an earlier attach is less
_BUFFER_BYTES: Final = 2 * MAX_FRAME
_SMALL_BUFFER_BYTES: Final = 16_384  # enough for most attaches, of which a daemon has many


class FrameType(IntEnum):
    """Types below 128 go to the agent (or to the daemon), the others come from it."""

    CONFIGURE = 1
    START = 2
    STDIN = 3
    CONSUMED = 4
    SIGNAL = 5
    RESIZE = 6
    KILL = 7
    RESUME = 8
    FORGET = 9
    LIST = 10
    STATS = 11
    PING = 12
    SHUTDOWN = 13
    CALL = 14  # at the daemon's door, which has no tunnels
    TUNNEL_OPEN = 14  # to an agent
    TUNNEL_SEND = 15
    TUNNEL_CREDIT = 16
    TUNNEL_CLOSE = 17
    ANSWER = 18
    REPLY = 128
    FAILED = 129
    STARTED = 130
    OUTPUT = 131
    STDIN_CONSUMED = 132
    EXITED = 133
    RESUMED = 134
    TUNNEL_ACCEPTED = 135
    TUNNEL_OPENED = 136
    TUNNEL_DATA = 137
    TUNNEL_GRANT = 138
    TUNNEL_CLOSED = 139
    QUERY = 140


HOST_TYPES: Final = frozenset(int(kind) for kind in FrameType if kind < 128)
CLIENT_TYPES: Final = frozenset(range(FrameType.START, FrameType.SHUTDOWN)) | {int(FrameType.CALL)}
AGENT_TYPES: Final = frozenset(int(kind) for kind in FrameType if kind >= 128)


class Hello(NamedTuple):
    """The host's opening of an attach."""

    epoch: bytes
    version_min: int
    version_max: int


class HelloReply(NamedTuple):
    """The agent's answer; version 0 means that there is no common one."""

    epoch: bytes
    version: int
    arch: int
    state: int
    boot_id: bytes


class Frame(NamedTuple):
    """One frame; a payload from `FrameDecoder.received` is only valid until the decoder is used again."""

    type: int
    flags: int
    id: int
    payload: memoryview | bytes


def decode_hello(data: bytes | memoryview) -> Hello:
    """Reads a HELLO of exactly 32 bytes."""
    if len(data) != HELLO.size:
        raise ProtocolViolation("a HELLO is 32 bytes long")
    magic, epoch, version_min, version_max, zero = HELLO.unpack(data)
    if magic != HOST_MAGIC or zero or not tag_of(epoch):
        raise ProtocolViolation("malformed HELLO")
    return Hello(epoch, version_min, version_max)


def encode_hello_reply(reply: HelloReply) -> bytes:
    """A HELLO_REPLY."""
    return HELLO_REPLY.pack(AGENT_MAGIC, *reply)


class FrameDecoder:
    """Reads one attach's bytes, in pieces of any size: first the HELLO_REPLY with this epoch, then frames.

    The buffer is read into directly (`writable`, then `find_hello` or `received`), so that no byte is copied on the way.
    """

    def __init__(self, epoch: bytes, *, types: frozenset[int] = AGENT_TYPES, greeted: bool = False) -> None:
        self.hello: HelloReply | None = None
        self._epoch = epoch
        self._tag = tag_of(epoch)
        self._types = types
        self._greeted = greeted
        self._stale_bytes = 0
        self._buffer = bytearray(_SMALL_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0

    def writable(self) -> memoryview:
        """Where the next bytes go: never empty, because a whole frame never fills the buffer."""
        start, end = self._start, self._end
        half = len(self._buffer) // 2
        if start == end:
            self._start = self._end = 0
        elif end > half:
            if end - start > half and half < MAX_FRAME:
                larger = bytearray(_BUFFER_BYTES)
                larger[: end - start] = self._view[start:end]
                self._buffer, self._view = larger, memoryview(larger)
            elif start:
                self._view[: end - start] = self._view[start:end]
            self._start, self._end = 0, end - start
        return self._view[self._end :]

    def find_hello(self, count: int) -> HelloReply | None:
        """Takes `count` new bytes while the attach is not answered; what comes before the reply is stale and dropped."""
        self._end += count
        wanted = AGENT_MAGIC + self._epoch
        found = self._buffer.find(wanted, self._start, self._end)
        if found < 0:
            keep = max(self._start, self._end - len(wanted) + 1)
            self._drop_stale(keep)
            return None
        self._drop_stale(found)
        if self._end - found < HELLO_REPLY.size:
            return None
        _, epoch, version, arch, state, boot_id = HELLO_REPLY.unpack_from(self._buffer, found)
        self._start = found + HELLO_REPLY.size
        self._greeted = True
        self.hello = HelloReply(epoch, version, arch, state, boot_id)
        return self.hello

    def received(self, count: int) -> Iterator[Frame]:
        """Takes `count` new bytes and yields the frames that are now complete; raises ProtocolViolation."""
        self._end += count
        view, types, tag = self._view, self._types, self._tag
        while self._end - self._start >= HEADER.size:
            start = self._start
            length, kind, flags, zero, ident = HEADER.unpack_from(view, start)
            if length > MAX_PAYLOAD:
                raise ProtocolViolation(f"a frame of {length} bytes is longer than {MAX_PAYLOAD}")
            if zero or kind not in types:
                raise ProtocolViolation(f"unknown frame type {kind}" if not zero else "a frame's zero field is not zero")
            end = start + HEADER.size + length
            if self._end < end + TAG.size:
                return
            if TAG.unpack_from(view, end)[0] != tag:
                raise ProtocolViolation("a frame carries the tag of another attach")
            self._start = end + TAG.size
            yield Frame(kind, flags, ident, view[start + HEADER.size : end])

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Takes bytes of any length and returns the complete frames with payloads of their own."""
        frames: list[Frame] = []
        rest = memoryview(data)
        while rest:
            room = self.writable()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            rest = rest[count:]
            if not self._greeted:
                if self.find_hello(count) is None:
                    continue
                count = 0
            frames += [frame._replace(payload=bytes(frame.payload)) for frame in self.received(count)]
        return frames

    def _drop_stale(self, until: int) -> None:
        self._stale_bytes += until - self._start
        self._start = until
        if self._stale_bytes > MAX_STALE_BYTES:
            raise ProtocolViolation("the agent sends without ever answering the attach")
