"""Tokens that are removed while somebody uses them: what is under way for them ends, in every server that takes tokens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from typing import Final

from agentkernel.config.tokens import Token, TokenStore
from agentkernel.errors import InvalidInput, Unauthorized

LOOK_S: Final = 1.0  # between two looks for tokens that were removed


class Running:
    """The tasks that answer requests, and who asked. Belongs to one event loop."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[object], Hashable] = {}
        self._ending: set[asyncio.Task[object]] = set()

    @contextmanager
    def entered(self, who: Hashable) -> Iterator[None]:
        """The current task answers a request of theirs in this block. Raises Unauthorized when `end` has ended it."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is answered by a task")
        self._tasks[task] = who
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ending:
                raise
            task.uncancel()
            raise Unauthorized("the token was removed") from None
        finally:
            del self._tasks[task]
            self._ending.discard(task)

    def end(self, who: Hashable) -> None:
        """Cancels what they have under way."""
        for task in [task for task, of in self._tasks.items() if of == who]:
            self._ending.add(task)
            task.cancel()

    async def idle(self, timeout_s: float) -> None:
        """Waits until nothing is under way, for that long at most."""
        others = self._tasks.keys() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=timeout_s)


def removed(tokens: TokenStore, known: Collection[Token]) -> list[Token]:
    """Those of the known tokens that there are no more."""
    if not known:
        return []
    try:
        good = set(tokens.entries())
    except InvalidInput:
        return []  # a damaged file says nothing of any token; until it is mended, none is taken
    return [token for token in known if token not in good]


async def watch(look: Callable[[], Awaitable[None]], log: logging.Logger) -> None:
    """Looks for removed tokens and ends what they have under way, every `LOOK_S` seconds, until it is cancelled."""
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            await look()
        except Exception:  # a watch that has ended would let every token removed later go on
            log.exception("what removed tokens have under way is looked for again")
