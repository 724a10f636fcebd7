"""One connected socket on the event loop: reads straight into a given buffer, writes at once when the kernel takes it.

`asyncio`'s transports would cost two more turns of the loop per attach and a copy per read; this is all that the channel needs of them.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Protocol

_LATER_S = 0.02
_DRAIN_READS = 64  # reads of what a dead peer left in the socket


class Reader(Protocol):
    """Who gets the bytes."""

    def writable(self) -> memoryview:
        """Where to read to; never empty."""
        ...

    def received(self, count: int) -> None:
        """That many bytes were read; must not raise."""
        ...

    def drained(self) -> None:
        """A backlog has been written."""
        ...

    def lost(self, reason: str) -> None:
        """The connection is over; called at most once, never from within `send`."""
        ...


class Link:
    """A socket that belongs to the link from now on. Needs an event loop with `add_reader`."""

    def __init__(self, sock: socket.socket, reader: Reader, loop: asyncio.AbstractEventLoop) -> None:
        self.backlog_bytes = 0
        self._sock = sock
        self._fd = sock.fileno()
        self._reader = reader
        self._loop = loop
        self._backlog: deque[memoryview] = deque()
        self._corked = False
        self._later: asyncio.TimerHandle | None = None
        self._soon = False  # `_flush_soon` is called in the next turn
        self._urgent = False  # something in the backlog is waited for
        self._waiting = False  # for room in the kernel
        self._open = True
        self._paused = False
        loop.add_reader(self._fd, self._readable)

    def send(self, data: bytes) -> None:
        """Writes now or, where the kernel has no room, soon; the caller bounds `backlog_bytes`."""
        if not self._open:
            return
        self._backlog.append(memoryview(data))
        self.backlog_bytes += len(data)
        self.flush()

    def send_later(self, data: bytes) -> None:
        """Writes with what is sent next, or soon: what nobody waits for is not worth a system call of its own."""
        if self._open:
            self._backlog.append(memoryview(data))
            self.backlog_bytes += len(data)
            if self._later is None:
                self._later = self._loop.call_later(_LATER_S, self._flush_later)

    def send_soon(self, data: bytes) -> None:
        """Writes with all that is sent in this turn of the loop: one system call, for which the other end wakes once."""
        if self._open:
            self._backlog.append(memoryview(data))
            self.backlog_bytes += len(data)
            if not self._soon:
                self._soon = True
                self._loop.call_soon(self._flush_soon)

    def flush(self, *, at_once: bool = False) -> None:
        """Writes what the kernel takes now; while a batch of frames is read, with their answers, but `at_once`."""
        self._urgent = True
        if self._backlog and not self._waiting and (at_once or not self._corked):
            self._flush()

    def pause(self) -> None:
        """Reads no more until `go_on`: the other end shall first take what it is sent."""
        if self._open and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def go_on(self) -> None:
        """Reads again."""
        if self._open and self._paused:
            self._paused = False
            self._loop.add_reader(self._fd, self._readable)

    def drain(self) -> None:
        """Reads what is left in the socket, without waiting: the last words of a peer that has died."""
        for _ in range(_DRAIN_READS):
            if not self._open or not self._readable():
                return

    def close(self) -> None:
        """Closes the socket; nothing is called afterwards."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)
            if self._waiting:
                self._loop.remove_writer(self._fd)
            if self._later is not None:
                self._later.cancel()
            self._sock.close()
            self._backlog.clear()
            self.backlog_bytes = 0

    def _readable(self) -> bool:
        try:
            count = self._sock.recv_into(self._reader.writable())
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lost(str(error))
            return False
        if count == 0:
            self._lost("the other end closed the connection")
            return False
        self._corked = True  # answers to one batch of frames leave in one write
        self._reader.received(count)
        self._corked = False
        if self._urgent:
            self.flush()
        return True

    def _flush(self) -> None:
        if not self._open:
            return
        try:
            while self._backlog:
                count = self._sock.sendmsg(list(self._backlog)[:64]) if len(self._backlog) > 1 else self._sock.send(self._backlog[0])
                self._written(count)
        except (BlockingIOError, InterruptedError):
            self._waiting = True
            self._loop.add_writer(self._fd, self._flush)
        except OSError as error:
            self._loop.call_soon(self._lost, str(error))
        else:
            self._urgent = False
            if self._waiting:
                self._waiting = False
                self._loop.remove_writer(self._fd)
                self._reader.drained()

    def _flush_soon(self) -> None:
        self._soon = False
        self.flush()

    def _flush_later(self) -> None:
        self._later = None
        self.flush()

    def _written(self, count: int) -> None:
        self.backlog_bytes -= count
        while count:
            first = self._backlog[0]
            if count < len(first):
                self._backlog[0] = first[count:]
                return
            count -= len(first)
            self._backlog.popleft()

    def _lost(self, reason: str) -> None:
        if self._open:
            self.close()
            self._reader.lost(reason)
