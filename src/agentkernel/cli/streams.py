"""Moves bytes between the process's own descriptors and a command in a sandbox; nothing is changed, cut or kept.

Memory stays flat because each direction has at most one chunk under way: reading waits for the write before it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import select
import stat
import threading
from collections.abc import AsyncIterator

from agentkernel.abc import Process

CHUNK_BYTES = 65536
_BACKGROUND_POLL_S = 0.5

_Job = tuple[int, bytes, "asyncio.Future[None]"]


class Writer:
    """Writes to descriptors that may block for ever, without blocking the event loop and without changing their flags.

    O_NONBLOCK belongs to the open file, which the shell and other programs share, so a thread does the blocking write.
    The thread is a daemon: a reader that has stopped reading cannot keep the process from exiting.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def write(self, descriptor: int, data: bytes) -> None:
        """Writes everything; raises BrokenPipeError when the reader has gone, OSError for what else goes wrong."""
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, args=(loop,), name="output", daemon=True)
            self._thread.start()
        done: asyncio.Future[None] = loop.create_future()
        self._jobs.put((descriptor, data, done))
        await done

    def close(self) -> None:
        """Lets the thread end after what it is writing; does not wait for it."""
        self._jobs.put(None)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        while (job := self._jobs.get()) is not None:
            descriptor, data, done = job
            error: OSError | None = None
            try:
                write_all(descriptor, data)
            except OSError as caught:
                error = caught
            try:
                loop.call_soon_threadsafe(_settle, done, error)
            except RuntimeError:  # the loop was closed meanwhile: nobody waits
                return


def write_all(descriptor: int, data: bytes) -> None:
    """Writes everything, also to a descriptor that somebody else made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def _settle(done: asyncio.Future[None], error: OSError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def is_gone(error: OSError) -> bool:
    """Whether the reader of a stream has gone away: closed pipe, closed descriptor, terminal hung up."""
    return error.errno in (errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET)


def has_input(descriptor: int) -> bool:
    """Whether there is any sense in forwarding: false for /dev/null and for what cannot be read."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    if stat.S_ISDIR(status.st_mode):
        return False
    return not (stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev)


async def read_chunks(descriptor: int) -> AsyncIterator[bytes]:
    """Yields what arrives until the end; a terminal that belongs to another job is left alone (reading it would stop us)."""
    terminal = os.isatty(descriptor)
    while True:
        await _readable(descriptor)
        if terminal and not _in_foreground(descriptor):
            await asyncio.sleep(_BACKGROUND_POLL_S)
            continue
        try:
            data = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            continue
        except OSError:  # the terminal hung up
            return
        if not data:
            return
        yield data


async def feed(process: Process, descriptor: int) -> None:
    """Forwards our input to the command until either ends."""
    async for data in read_chunks(descriptor):
        await process.write_stdin(data)
    await process.close_stdin()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # epoll refuses regular files: they are always ready
        await asyncio.sleep(0)
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _in_foreground(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # not our controlling terminal: no job control, nothing would stop us
        return True
