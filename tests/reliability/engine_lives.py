"""Operations on an engine in a process of its own: when one dies the next is started, and what was not answered is asked again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reliability.lives import OPERATION_S, Answer, Hangs, Lives, Nursery

ATTEMPTS = 6


class EngineLives(Lives):
    """Speaks to `subject.py`."""

    def __init__(self, nursery: Nursery, environment: Mapping[str, str], errors: Path, arguments: list[str]) -> None:
        super().__init__(nursery, environment, errors)
        self._arguments = arguments
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any] | None]] = {}
        self._last_id = 0

    async def call(self, operation: str, **arguments: Any) -> Answer:
        """See `Lives`."""
        for attempt in range(ATTEMPTS):
            await self._living()
            try:
                async with asyncio.timeout(OPERATION_S):
                    told = await self._ask(operation, arguments)
            except TimeoutError:
                raise Hangs(f"{operation} {arguments} takes more than {OPERATION_S:g} s") from None
            if told is not None:
                error, message = told.get("error", ("", ""))
                return Answer(result=told.get("result"), error=error, message=message, repeated=attempt > 0)
        raise Hangs(f"{operation} {arguments}: every process that was asked has died")

    async def close(self) -> int:
        """See `Lives`."""
        assert self._writer is not None
        self._writer.close()
        return await self._ended()

    async def _living(self) -> None:
        async with self._starting:
            if self._over.is_set():
                died = time.monotonic()
                await self._follow()
                if await self._ask("settled", {}) is not None:
                    self.recoveries_s.append(time.monotonic() - died)

    async def _start(self, armed: str) -> None:
        ours, theirs = socket.socketpair()
        await self._fork("engine", armed, self._arguments, [theirs.fileno()])
        theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 24)
        self._spawn(self._read(reader, self._writer, self._over))

    async def _ask(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """None: it died first."""
        if self._over.is_set():
            return None
        assert self._writer is not None
        self._last_id += 1
        ident, answer = self._last_id, asyncio.get_running_loop().create_future()
        self._waiting[ident] = answer
        try:
            self._writer.write(json.dumps({"id": ident, "op": operation, "with": arguments}).encode() + b"\n")
            return await answer
        finally:
            self._waiting.pop(ident, None)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, over: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while (line := await reader.readline()).endswith(b"\n"):  # else it was killed in the middle of it
                told = json.loads(line)
                if (waiting := self._waiting.get(told["id"])) is not None and not waiting.done():
                    waiting.set_result(told)
        await over.wait()
        writer.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)
