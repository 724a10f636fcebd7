"""Answers that are given again: a request that is repeated with its `Idempotency-Key` is done once."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from agentkernel.abc import Caller
from agentkernel.errors import Busy, Conflict, InvalidInput, SandboxLost

HEADER: Final = "idempotency-key"
REPLAYED: Final = "idempotency-replayed"
KEEP_S: Final = 600.0
MOST: Final = 1024
MOST_BYTES: Final = 64 << 20
MAX_KEY: Final = 255


@dataclass(slots=True)
class _Kept:
    """One request: what it said, the task that does it, when that ended (0: not yet) and how much its answer takes."""

    said: bytes
    task: asyncio.Task[Response]
    ended_at: float = 0.0
    size_bytes: int = 0


class Replays:
    """The answers of the last requests that had a key. Belongs to one event loop; nothing of it outlives the process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._clock = clock
        self._most = most
        self._most_bytes = most_bytes
        self._kept: dict[tuple[Caller, str], _Kept] = {}
        self._bytes = 0

    async def once(self, request: Request, caller: Caller, do: Callable[[], Awaitable[Response]]) -> Response:
        """Answers the request by `do`; one with a key that this caller has used in the last ten minutes, by the answer that was given then.

        While the first is under way, a repeat waits for it. With a key, `do` goes on when its client has gone, for the client may come
        again. What failed before anything was done is done again.

        Raises:
            InvalidInput: a key that is no 1 to 255 visible ASCII characters.
            Conflict: the key was used for another request.
            Busy: too many requests with keys are under way.
        """
        key = key_of(request)
        if not key:
            return await do()
        said = hashlib.sha256(f"{request.method} {request.url.path}\0".encode() + await request.body()).digest()
        self._forget()
        kept = self._kept.get((caller, key))
        if kept is not None and kept.said != said:
            raise Conflict(f"the idempotency key {key!r} was used for another request", hint="use a new key for each request")
        if kept is not None:
            answer = await asyncio.shield(kept.task)
            return _again(answer)
        if len(self._kept) >= self._most:
            raise Busy(f"{self._most} requests with idempotency keys are under way", hint="try again when some have ended")
        task = asyncio.create_task(_done(do), name=f"request with key {key}")
        kept = self._kept[caller, key] = _Kept(said, task)
        task.add_done_callback(lambda _: self._ended((caller, key), kept))
        return await asyncio.shield(task)

    def end(self, caller: Caller) -> None:
        """Cancels what a caller has under way, and forgets what it was answered."""
        for key in [key for key in self._kept if key[0] == caller]:
            kept = self._kept[key]
            if kept.ended_at:
                self._bytes -= self._kept.pop(key).size_bytes
            else:
                kept.task.cancel()

    async def close(self) -> None:
        """Cancels what is under way and forgets everything."""
        tasks = [kept.task for kept in self._kept.values() if not kept.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._kept.clear()
        self._bytes = 0

    def _ended(self, key: tuple[Caller, str], kept: _Kept) -> None:
        task = kept.task
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or (error is not None and not isinstance(error, SandboxLost)):
            self._kept.pop(key, None)
            return
        kept.ended_at = self._clock()
        kept.size_bytes = 0 if error is not None else len(task.result().body)
        self._bytes += kept.size_bytes
        self._forget()

    def _forget(self) -> None:
        """Forgets the oldest answers: those older than ten minutes, and as many as are too many."""
        oldest = self._clock() - KEEP_S
        found = [(kept.ended_at, key) for key, kept in self._kept.items() if kept.ended_at] if self._is_full(oldest) else []
        ended = sorted(found, key=lambda each: each[0])  # callers have no order
        for ended_at, key in ended:
            if ended_at >= oldest and len(self._kept) < self._most and self._bytes <= self._most_bytes:
                return
            self._bytes -= self._kept.pop(key).size_bytes

    def _is_full(self, oldest: float) -> bool:
        first = next((kept for kept in self._kept.values() if kept.ended_at), None)
        return len(self._kept) >= self._most or self._bytes > self._most_bytes or (first is not None and first.ended_at < oldest)


def key_of(connection: HTTPConnection) -> str:
    """The idempotency key of a request, empty if it has none; raises InvalidInput for one that is no visible ASCII."""
    keys = connection.headers.getlist(HEADER)
    if not keys:
        return ""
    key = keys[0]
    if len(keys) > 1 or not 1 <= len(key) <= MAX_KEY or not all("!" <= character <= "~" for character in key):
        raise InvalidInput("the Idempotency-Key is 1 to 255 visible ASCII characters, once", hint="a UUID will do")
    return key


async def _done(do: Callable[[], Awaitable[Response]]) -> Response:
    return await do()


def _again(answer: Response) -> Response:
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return Response(answer.body, status_code=answer.status_code, headers={**headers, REPLAYED: "true"})


async def _replays(connection: HTTPConnection) -> Replays:
    found: Replays = connection.app.state.replays
    return found


Replayed = Annotated[Replays, Depends(_replays)]
