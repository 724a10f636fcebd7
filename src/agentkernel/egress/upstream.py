"""The connection to where a program wanted to go: a socket on the event loop that reads only what there is room for."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from agentkernel.egress.stream import Piece

READ_BYTES: Final = 262_144  # at most, at a time
_HEAD_BYTES: Final = 65_536
_IDLE_S, _PROBE_S, _PROBES = 60, 15, 4  # keep-alive: a peer that has gone is noticed after two minutes
_RESET: Final = struct.pack("ii", 1, 0)


class Desk(NamedTuple):
    """What every connection of the process works with: the loop, and the one buffer that is read into."""

    loop: asyncio.AbstractEventLoop
    scratch: memoryview


def make_desk(loop: asyncio.AbstractEventLoop) -> Desk:
    """One per process."""
    return Desk(loop, memoryview(bytearray(READ_BYTES)))


class Reader(Protocol):
    """Who gets what is read."""

    def room(self) -> int:
        """How many bytes it takes now; 0 stops the reading until `Upstream.go_on`."""
        ...

    def data(self, view: memoryview) -> None:
        """At most that many bytes, valid during the call."""
        ...

    def ended(self) -> None:
        """The other end sends nothing more; reading has stopped."""
        ...

    def failed(self, error: OSError) -> None:
        """The connection broke; reading has stopped."""
        ...


class Upstream:
    """Owns the connected socket from now on."""

    def __init__(self, sock: socket.socket, desk: Desk) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        self.buffer = b""  # read, and taken by nobody yet
        self.is_open = True
        self.on_written: Callable[[int], None] | None = None  # told how many bytes the kernel took
        self.on_broken: Callable[[OSError], None] | None = None  # told once that writing failed
        self.on_flushed: Callable[[], None] | None = None  # told when nothing waits any more
        self._sock = sock
        self._fd = sock.fileno()
        self._desk = desk
        self._reader: Reader | None = None
        self._is_reading = False
        self._unwritten: deque[memoryview] = deque()
        self._ends = False

    # -- heads, which a coroutine waits for

    async def receive(self) -> bool:
        """Adds to `buffer` what comes next; False at the end. Raises OSError."""
        data = await self._desk.loop.sock_recv(self._sock, _HEAD_BYTES)
        self.buffer += data
        return bool(data)

    async def send(self, data: bytes) -> None:
        """Writes all of it, while nothing else is being written. Raises OSError."""
        await self._desk.loop.sock_sendall(self._sock, data)

    def is_stale(self) -> bool:
        """Whether the other end has closed, or said something unasked, so that no request should be sent on it."""
        if not self.is_open or self.buffer or self._unwritten:
            return True
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    # -- bytes, as they come

    def read_to(self, reader: Reader) -> None:
        """Gives everything that comes to `reader`."""
        self._reader = reader
        self.go_on()

    def go_on(self) -> None:
        """Reads again, if somebody is to be given something."""
        if self._reader is not None and not self._is_reading and self.is_open:
            self._is_reading = True
            self._desk.loop.add_reader(self._fd, self._readable)

    def stop_reading(self) -> None:
        """Nobody wants anything any more."""
        self._reader = None
        self._pause()

    def write(self, data: Piece) -> None:
        """Writes what the kernel takes now, and keeps a copy of the rest. The caller bounds how much."""
        if not self.is_open:
            return
        count = 0
        if not self._unwritten:
            try:
                count = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._break(error)
                return
        if count < len(data):
            if not self._unwritten:
                self._desk.loop.add_writer(self._fd, self._writable)
            self._unwritten.append(memoryview(bytes(data[count:])))
        if count and self.on_written is not None:
            self.on_written(count)

    def is_flushed(self) -> bool:
        """Whether the kernel has taken everything."""
        return not self._unwritten

    def shut_down(self) -> None:
        """Sends nothing more after what waits."""
        self._ends = True
        if not self._unwritten and self.is_open:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:  # the other end has gone in the meantime
                self._break(error)

    def close(self, *, reset: bool = False) -> None:
        """Closes the socket, with `reset` so that the other end sees an error; repeating it is fine."""
        if not self.is_open:
            return
        self._pause()
        if self._unwritten:
            self._desk.loop.remove_writer(self._fd)
            self._unwritten.clear()
        if reset and self._sock.family != socket.AF_UNIX:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.is_open = False
        self._sock.close()

    # -- what the loop calls

    def _pause(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._desk.loop.remove_reader(self._fd)

    def _readable(self) -> None:
        reader = self._reader
        room = reader.room() if reader is not None else 0
        if reader is None or room <= 0:
            self._pause()
            return
        scratch = self._desk.scratch
        try:
            count = self._sock.recv_into(scratch[:room])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.stop_reading()
            reader.failed(error)
            return
        if count:
            reader.data(scratch[:count])
        else:
            self.stop_reading()
            reader.ended()

    def _writable(self) -> None:
        written = 0
        try:
            while self._unwritten:
                first = self._unwritten[0]
                count = self._sock.send(first)
                written += count
                if count < len(first):
                    self._unwritten[0] = first[count:]
                else:
                    self._unwritten.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._break(error)
            return
        if not self._unwritten:
            self._desk.loop.remove_writer(self._fd)
            if self._ends:
                self.shut_down()
        if written and self.on_written is not None:
            self.on_written(written)
        if not self._unwritten and self.on_flushed is not None:
            self.on_flushed()

    def _break(self, error: OSError) -> None:
        if self._unwritten:
            self._desk.loop.remove_writer(self._fd)
            self._unwritten.clear()
        told, self.on_broken = self.on_broken, None
        if told is not None:
            told(error)
