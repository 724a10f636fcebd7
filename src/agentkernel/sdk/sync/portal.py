"""A private event loop in a thread, and how other threads get something done on it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Final, TypeVar

from agentkernel.errors import Conflict

T = TypeVar("T")
_PATIENCE_S: Final = 30.0  # for what was interrupted to clean up after itself; a second Ctrl-C cuts it short


class Portal:
    """Used from any thread, also from one whose own event loop runs (which then waits). Not after a fork."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._submitting = threading.Lock()
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
        future = self._submit(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Conflict("the client was closed meanwhile") from None
        except BaseException:
            if not future.done():
                future.cancel()  # tells the task; that it has ended is to be seen on its loop alone
                concurrent.futures.wait([self._submit(_settled)], timeout=_PATIENCE_S)
            raise

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
            if isinstance(source, AsyncGenerator) and not self._closed:
                self.call(source.aclose)

    @contextmanager
    def inside(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An async context manager as a plain one. It is not told of exceptions: a KeyboardInterrupt would end the loop."""
        value = self.call(lambda: _entered(manager))
        try:
            yield value
        finally:
            self.call(lambda: _left(manager))

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

    def _submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        if os.getpid() != self._pid:
            raise Conflict("the client belongs to the process that this one was forked from", hint="make a client after the fork")
        with self._submitting:
            if self._closed:
                raise Conflict("the client is closed", hint="make a new one")
            return asyncio.run_coroutine_threadsafe(work(), self._loop)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()


async def _settled() -> None:
    """Waits for tasks that were cancelled and still clean up."""
    ending = [task for task in asyncio.all_tasks() if task.cancelling()]
    if ending:
        await asyncio.wait(ending)


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
