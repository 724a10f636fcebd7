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
from agentkernel.api.lengthy import Lengthy
from agentkernel.errors import Busy, Conflict, InvalidInput, SandboxLost

HEADER: Final = "idempotency-key"
REPLAYED: Final = "idempotency-replayed"
KEYED: Final = frozenset({"run", "sandbox_create"})  # operations that take one
KEEP_S: Final = 600.0
MOST: Final = 1024  # of one caller
MOST_BYTES: Final = 16 << 20  # of one caller
ALL_BYTES: Final = 64 << 20
MAX_KEY: Final = 255


@dataclass(slots=True)
class _Kept:
    """One request: what it said, the task that does it, when that ended (0: not yet) and how much its answer takes."""

    said: bytes
    task: asyncio.Task[Response]
    ended_at: float = 0.0
    size_bytes: int = 0


class _Answers:
    """Those of one caller, by their keys: nobody else's requests push one out."""

    def __init__(self) -> None:
        self.kept: dict[str, _Kept] = {}
        self.bytes = 0

    def ended(self, key: str, kept: _Kept, at: float) -> None:
        """The request of a key was answered, or may have been done."""
        kept.ended_at = at
        kept.size_bytes = 0 if kept.task.exception() is not None else _size(kept.task.result())
        self.bytes += kept.size_bytes

    def forget(self, key: str) -> None:
        """Forgets one that has ended."""
        self.bytes -= self.kept.pop(key).size_bytes

    def forget_oldest(self, since: float, most: int, most_bytes: int) -> None:
        """Forgets answers that were given before `since`, and of the others the oldest, as many as are too many."""
        first = next((kept for kept in self.kept.values() if kept.ended_at), None)
        if first is None or not (first.ended_at < since or len(self.kept) >= most or self.bytes > most_bytes):
            return
        for ended_at, key in sorted((kept.ended_at, key) for key, kept in self.kept.items() if kept.ended_at):
            if ended_at >= since and len(self.kept) < most and self.bytes <= most_bytes:
                return
            self.forget(key)


class Replays:
    """The answers of the last requests that had a key. Belongs to one event loop; nothing of it outlives the process.

    Args:
        most: answers, and requests under way, of one caller.
        most_bytes: of one caller's answers.
        all_bytes: of all; where that is more, the caller with the most loses its oldest.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
        all_bytes: int = ALL_BYTES,
    ) -> None:
        self._clock = clock
        self._most = most
        self._most_bytes = most_bytes
        self._all_bytes = all_bytes
        self._callers: dict[Caller, _Answers] = {}

    async def once(self, request: Request, caller: Caller, do: Callable[[], Awaitable[Response]]) -> Response:
        """Answers the request by `do`; one with a key that this caller has used in the last ten minutes, by the answer that was given then.

        While the first is under way, a repeat waits for it. With a key, `do` goes on when its client has gone, for the client may come
        again. What failed before anything was done is done again.

        Raises:
            InvalidInput: a key that is no 1 to 255 visible ASCII characters.
            Conflict: the key was used for another request.
            Busy: too many requests of this caller with keys are under way.
        """
        key = key_of(request)
        if not key:
            return await do()
        said = hashlib.sha256(f"{request.method} {request.url.path}\0".encode() + await request.body()).digest()
        self._forget()
        answers = self._callers.setdefault(caller, _Answers())
        kept = answers.kept.get(key)
        if kept is not None and kept.said != said:
            raise Conflict(f"the idempotency key {key!r} was used for another request", hint="use a new key for each request")
        if kept is not None:
            answer = await asyncio.shield(kept.task)
            return _again(answer)
        if len(answers.kept) >= self._most:
            raise Busy(f"{self._most} requests with idempotency keys are under way", hint="try again when some have ended")
        task = asyncio.create_task(_done(do), name=f"request with key {key}")
        kept = answers.kept[key] = _Kept(said, task)
        task.add_done_callback(lambda _: self._ended(answers, key, kept))
        return await asyncio.shield(task)

    def end(self, caller: Caller) -> None:
        """Cancels what a caller has under way, and forgets what it was answered."""
        answers = self._callers.get(caller, _Answers())
        for key, kept in list(answers.kept.items()):
            if kept.ended_at:
                answers.forget(key)
            else:
                kept.task.cancel()

    async def close(self) -> None:
        """Cancels what is under way and forgets everything."""
        tasks = [kept.task for answers in self._callers.values() for kept in answers.kept.values() if not kept.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._callers.clear()

    def _ended(self, answers: _Answers, key: str, kept: _Kept) -> None:
        task = kept.task
        if task.cancelled() or (task.exception() is not None and not isinstance(task.exception(), SandboxLost)):
            answers.kept.pop(key, None)
            return
        answers.ended(key, kept, self._clock())
        self._forget()

    def _forget(self) -> None:
        """Forgets what is older than ten minutes, and as much as is too much."""
        since = self._clock() - KEEP_S
        for caller, answers in list(self._callers.items()):
            answers.forget_oldest(since, self._most, self._most_bytes)
            if not answers.kept:
                del self._callers[caller]
        while sum(answers.bytes for answers in self._callers.values()) > self._all_bytes:
            fullest = max(self._callers.values(), key=lambda answers: answers.bytes)
            fullest.forget_oldest(since, self._most, fullest.bytes - 1)


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


def _size(answer: Response) -> int:
    return answer.size_bytes if isinstance(answer, Lengthy) else len(answer.body)


def _again(answer: Response) -> Response:
    if isinstance(answer, Lengthy):
        return answer.again({REPLAYED: "true"})
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return Response(answer.body, status_code=answer.status_code, headers={**headers, REPLAYED: "true"})


async def _replays(connection: HTTPConnection) -> Replays:
    found: Replays = connection.app.state.replays
    return found


Replayed = Annotated[Replays, Depends(_replays)]
