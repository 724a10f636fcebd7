"""Frames on a connected stream socket, on the event loop: as few system calls and copies as tunnels need (docs/guest-protocol.md, 2)."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from itertools import islice
from typing import Final, Protocol

from agentkernel.channel.frames import FrameDecoder
from agentkernel.channel.wire import HEADER, MAX_TUNNEL_DATA, TAG
from agentkernel.errors import ProtocolViolation

SOCKET_BYTES: Final = 1024 * 1024  # wished for as the socket's send buffer; the kernel may give less
_AT_ONCE_BYTES: Final = 16_384  # so much is written even while a batch of frames is read
_MAX_PIECES: Final = 256  # of one sendmsg(2)
_NO_EPOCH: Final = bytes(16)
_TAG: Final = TAG.pack(0)

Piece = bytes | memoryview


class Taker(Protocol):
    """Who gets the frames."""

    def frame(self, kind: int, flags: int, ident: int, payload: Piece) -> None:
        """One frame; `payload` is valid during the call. Must not raise."""
        ...

    def drained(self) -> None:
        """The backlog has been written."""
        ...

    def lost(self, reason: str) -> None:
        """The stream is over: closed, broken, or the other end broke the protocol. Called at most once, not after `close`."""
        ...


class FrameStream:
    """Owns the socket from now on. Tags are 0 and there is no HELLO; frames of a type that is not in `types` break the protocol."""

    def __init__(self, sock: socket.socket, types: frozenset[int], taker: Taker, loop: asyncio.AbstractEventLoop) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        self.backlog_bytes = 0
        self._sock = sock
        self._taker = taker
        self._loop = loop
        self._decoder = FrameDecoder(_NO_EPOCH, types=types, greeted=True)
        self._backlog: deque[Piece] = deque()
        self._is_open = True
        self._corked = False
        self._waiting = False  # for room in the kernel
        loop.add_reader(sock.fileno(), self._readable)

    def send(self, kind: int, ident: int, payload: Piece = b"", flags: int = 0) -> None:
        """Sends one frame; `payload` may be changed afterwards, as what the kernel does not take is copied. The caller bounds that."""
        self._put([HEADER.pack(len(payload), kind, flags, 0, ident), payload, _TAG])

    def send_data(self, kind: int, ident: int, data: memoryview) -> None:
        """Sends data of any length as frames of at most 65,536 bytes, with one system call as a rule."""
        pieces: list[Piece] = []
        for start in range(0, len(data), MAX_TUNNEL_DATA):
            part = data[start : start + MAX_TUNNEL_DATA]
            pieces += (HEADER.pack(len(part), kind, 0, 0, ident), part, _TAG)
        self._put(pieces)

    def close(self) -> None:
        """Closes the socket and drops what is not written; nothing is called afterwards. Repeating it is fine."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._sock.fileno())
            if self._waiting:
                self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._backlog.clear()
            self.backlog_bytes = 0

    # -- writing

    def _put(self, pieces: list[Piece]) -> None:
        if not self._is_open:
            return
        if self._waiting:
            self._keep(pieces, 0)
            return
        if self._corked and sum(map(len, pieces)) < _AT_ONCE_BYTES:
            self._keep(pieces, 0)  # leaves with the rest of the batch
            return
        if self._backlog:
            self._flush()
        if self.backlog_bytes:
            self._keep(pieces, 0)
            return
        self._write(pieces)

    def _write(self, pieces: list[Piece]) -> None:
        try:
            count = self._sock.sendmsg(pieces)
        except (BlockingIOError, InterruptedError):
            count = 0
        except OSError as error:
            self._loop.call_soon(self._lose, str(error))
            return
        if count < sum(map(len, pieces)):
            self._keep(pieces, count)
            self._wait()

    def _keep(self, pieces: list[Piece], written: int) -> None:
        if not self._is_open:
            return
        for piece in pieces:
            if written >= len(piece):
                written -= len(piece)
                continue
            rest = bytes(piece[written:] if written else piece)
            written = 0
            self._backlog.append(rest)
            self.backlog_bytes += len(rest)

    def _wait(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _writable(self) -> None:
        self._waiting = False
        self._flush()
        if not self._waiting and self._is_open:
            self._loop.remove_writer(self._sock.fileno())
            self._taker.drained()

    def _flush(self) -> None:
        """Writes of the backlog what the kernel takes; waits for room where that is not all."""
        try:
            while self._backlog:
                self._written(self._sock.sendmsg(list(islice(self._backlog, _MAX_PIECES))))
        except (BlockingIOError, InterruptedError):
            self._wait()
        except OSError as error:
            self._loop.call_soon(self._lose, str(error))

    def _written(self, count: int) -> None:
        self.backlog_bytes -= count
        while count:
            first = self._backlog[0]
            if count < len(first):
                self._backlog[0] = memoryview(first)[count:]
                return
            count -= len(first)
            self._backlog.popleft()

    # -- reading

    def _readable(self) -> None:
        try:
            count = self._sock.recv_into(self._decoder.writable())
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(str(error))
            return
        if not count:
            self._lose("the other end closed the stream")
            return
        self._corked = True
        try:
            for kind, flags, ident, payload in self._decoder.received(count):
                self._taker.frame(kind, flags, ident, payload)
                if not self._is_open:
                    return
        except ProtocolViolation as error:
            self._lose(error.message)
            return
        finally:
            self._corked = False
        if self._backlog and not self._waiting:
            self._flush()

    def _lose(self, reason: str) -> None:
        if self._is_open:
            self.close()
            self._taker.lost(reason)
