"""A private event loop in a thread, and how other threads get something done on it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Final, Generic, TypeVar

from agentkernel.errors import Conflict

T = TypeVar("T")
_PATIENCE_S: Final = 30.0  # for what was interrupted to clean up after itself; a second Ctrl-C cuts it short


class Portal:
    """Used from any thread, also from one whose own event loop runs (which then waits). Not after a fork."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._submitting = threading.RLock()  # the collector of garbage may end an iterator of ours while something is submitted
        self._endings: set[asyncio.Task[None]] = set()
        self._closed = False
        # a daemon thread: a client that nobody closes must not keep the program from ending
        self._thread = threading.Thread(target=self._serve, name="agentkernel client", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs what `work` makes and returns its result.

        An exception in the waiting thread (Ctrl-C) cancels the work, waits until it has cleaned up, and goes on.

        Raises:
            Conflict: the client was closed, or belongs to the process that this one was forked from.
        """
        if os.getpid() != self._pid:
            raise Conflict("the client belongs to the process that this one was forked from", hint="make a client after the fork")
        job = _Job(self._loop, work)
        try:
            self._submit(job.begin)
            job.wait()
        except BaseException:
            if not (job.has_ended or self._closed):
                self._submit(job.abort)
                job.wait(_PATIENCE_S)
            raise
        return job.result()

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """Iterates in this thread over what an async iterator yields; leaving early ends it."""
        source = make()
        try:
            while True:
                items = self.call(lambda: _advance(source))
                if not items:
                    return
                yield items[0]
        finally:
            if isinstance(source, AsyncGenerator):
                self._end(source.aclose)

    @contextmanager
    def inside(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An async context manager as a plain one. It is not told of exceptions: a KeyboardInterrupt would end the loop."""
        value = self.call(lambda: _entered(manager))
        try:
            yield value
        finally:
            self._end(lambda: _left(manager), late=True)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs `last` and ends the thread; repeating it is fine, and in a forked process it does nothing."""
        if self._closed or os.getpid() != self._pid:
            return
        try:
            self.call(last)
        finally:
            with self._submitting:
                self._closed = True
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _end(self, work: Callable[[], Coroutine[Any, Any, None]], *, late: bool = False) -> None:
        """Runs the end of what was begun here, except after the client's own (which `late` makes an error), and in a forked process.

        Who has just let go of an iterator without ending it has the collector of garbage end it, in whatever thread that runs.
        """
        if threading.current_thread() is self._thread:  # which cannot wait for itself
            task = self._loop.create_task(work())
            self._endings.add(task)
            task.add_done_callback(self._ended)
        elif late or not (self._closed or os.getpid() != self._pid):
            self.call(work)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._endings.discard(task)
        if not task.cancelled():
            task.exception()  # there is nobody to be told

    def _submit(self, act: Callable[[], None]) -> None:
        """Has the loop call something, after what it was given before."""
        with self._submitting:
            if self._closed:
                raise Conflict("the client is closed", hint="make a new one")
            self._loop.call_soon_threadsafe(act)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()


class _Job(Generic[T]):
    """Work of another thread, which may be interrupted at any instruction: also when nobody can tell yet whether the work has begun.

    A lock is all that is waited for: the waiting of `concurrent.futures` and of `threading.Condition` does not stand an interruption.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.has_ended = False
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._running = threading.Lock()
        self._running.acquire()

    def begin(self) -> None:
        """On the loop, at most once."""
        self._task = self._loop.create_task(self._work())
        self._task.add_done_callback(self._ended)

    def abort(self) -> None:
        """On the loop, later than `begin` if that comes at all."""
        if self._task is None:
            self._end()
        else:
            self._task.cancel()

    def wait(self, patience_s: float = -1) -> None:
        """Waits for the end."""
        if self._running.acquire(timeout=patience_s):
            self._running.release()

    def result(self) -> T:
        """What the work returned or raised; Conflict where the loop ended before it."""
        if self._task is None or self._task.cancelled():
            raise Conflict("the client was closed meanwhile")
        return self._task.result()

    def _ended(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # whether anybody still asks for it or not
        self._end()

    def _end(self) -> None:
        self.has_ended = True
        self._running.release()


async def _advance(source: AsyncIterator[T]) -> list[T]:
    """The next item, in a list; an empty one at the end."""
    try:
        return [await anext(source)]
    except StopAsyncIteration:
        return []


async def _entered(manager: AbstractAsyncContextManager[T]) -> T:
    return await manager.__aenter__()


async def _left(manager: AbstractAsyncContextManager[Any]) -> None:
    await manager.__aexit__(None, None, None)
