"""CALL: the operations of the door (`model.operation`), and the daemon's own. JSON in, JSON out, one frame each."""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from agentkernel import __version__
from agentkernel.abc import Caller
from agentkernel.channel.wire import MAX_PAYLOAD
from agentkernel.daemon.desk import Desk
from agentkernel.errors import InvalidInput, OutputTooLarge, Refused, UnknownKey
from agentkernel.model.codec import from_json, to_json
from agentkernel.model.operation import OPERATIONS, Operation
from agentkernel.model.record import KernelStatus

_MAY_END: Final = frozenset({"full", "admin"})  # scopes that end the daemon, which is everybody's
REMEMBERED: Final = 512  # results of one caller's mutating calls that are kept for a repeat
CALLERS: Final = 64  # whose results are kept
MAX_WAIT_S: Final = 60.0
_PAGE_BYTES: Final = MAX_PAYLOAD - 1024
_PAGE_ITEMS: Final = 1000
_WAIT: Final = "wait_s"
_KEY: Final = "key"
_Done = OrderedDict[tuple[str, str], asyncio.Task[bytes]]  # by operation and key


class Calls:
    """Those of all clients."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._done: OrderedDict[Caller, _Done] = OrderedDict()  # nobody is given, or pushes out, what another one was answered
        self._own: Mapping[str, Callable[[Caller, Mapping[str, Any]], Any]] = {"hello": self._hello, "drain": self._drain}

    async def answer(self, caller: Caller, payload: bytes) -> bytes:
        """The payload of REPLY; raises what the operation raises."""
        said = _parse(payload)
        name = str(said.pop("op", ""))
        if name in self._own:
            return json.dumps(self._own[name](caller, said)).encode()
        operation = OPERATIONS.get(name)
        if operation is None:
            raise UnknownKey(
                f"the door has no operation {name!r}", hint="a client of another version? `agentkernel daemon stop` ends this daemon"
            )
        if not operation.mutates:
            return await self._answered(caller, operation, said)
        # What changes something is done to its end, though its client be gone: it may come back and ask for the result.
        return await asyncio.shield(self._once(caller, operation, said))

    def _once(self, caller: Caller, operation: Operation, said: dict[str, Any]) -> asyncio.Task[bytes]:
        key = (operation.method, str(said.pop(_KEY, "") or os.urandom(16).hex()))
        own = self._done.setdefault(caller, OrderedDict())
        self._done.move_to_end(caller)
        task = own.get(key)
        if task is None:
            task = own[key] = asyncio.get_running_loop().create_task(self._answered(caller, operation, said))
            task.add_done_callback(lambda done: _failed(own, key, done))
            while len(own) > REMEMBERED and next(iter(own.values())).done():
                own.popitem(last=False)
            while len(self._done) > CALLERS and all(each.done() for each in next(iter(self._done.values())).values()):
                self._done.popitem(last=False)
        return task

    def unfinished(self) -> tuple[asyncio.Task[bytes], ...]:
        """What still changes something."""
        return tuple(task for own in self._done.values() for task in own.values() if not task.done())

    async def _answered(self, caller: Caller, operation: Operation, said: dict[str, Any]) -> bytes:
        wait_s = from_json(float, said.pop(_WAIT, 0)) if operation.paged else 0.0
        parameters = _parameters(operation, said)
        method = getattr(self._desk.host, operation.method)
        if operation.paged:
            return await self._page(lambda follow: method(caller, **parameters, follow=follow), min(wait_s, MAX_WAIT_S))
        result = await method(caller, **parameters)
        if isinstance(result, KernelStatus):
            result = replace(result, clients=self._desk.clients)
        answer = json.dumps(to_json(result)).encode()
        if len(answer) > MAX_PAYLOAD:
            raise OutputTooLarge(f"the answer takes {len(answer)} bytes, {MAX_PAYLOAD} can be sent", hint="ask for fewer at a time (limit)")
        return answer

    async def _page(self, iterate: Callable[[bool], AsyncIterator[Any]], wait_s: float) -> bytes:
        """What is there; where that is nothing, what comes within `wait_s`."""
        page = await _collect(iterate(False))
        if not page and wait_s > 0 and await self._has_come(iterate(True), wait_s):
            page = await _collect(iterate(False))
        return b"[" + b",".join(page) + b"]"

    async def _has_come(self, items: AsyncIterator[Any], wait_s: float) -> bool:
        """Waits for an item, for some time, or for the daemon's end."""
        coming = asyncio.ensure_future(_is_any(items))
        ending = asyncio.ensure_future(self._desk.ending())
        try:
            await asyncio.wait((coming, ending), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            return coming.done() and coming.result()
        finally:
            for task in (coming, ending):
                task.cancel()
            await asyncio.gather(coming, ending, return_exceptions=True)

    def _hello(self, caller: Caller, said: Mapping[str, Any]) -> dict[str, Any]:
        """A client of a later version has this daemon make way for one of its own, if it may end it."""
        if _may_end(caller) and _numbers(str(said.get("version", ""))) > _numbers(__version__):
            self._desk.end(f"a client has version {said['version']}, this is {__version__}")
        return {"version": __version__, "pid": os.getpid()}

    def _drain(self, caller: Caller, said: Mapping[str, Any]) -> dict[str, Any]:
        """`daemon stop`."""
        if not _may_end(caller):
            hint = f"it takes one of the scopes {', '.join(sorted(_MAY_END))}, on the daemon's own machine"
            raise Refused(f"{caller.principal} may not do this: drain", hint=hint)
        self._desk.end("it was told to stop")
        return {"pid": os.getpid()}


def _failed(own: _Done, key: tuple[str, str], task: asyncio.Task[bytes]) -> None:
    """A call that failed changed nothing, so a repeat may try again; its error, with all that hangs on it, is not kept."""
    if (task.cancelled() or task.exception() is not None) and own.get(key) is task:
        del own[key]


def _may_end(caller: Caller) -> bool:
    """Who may not start the next one leaves this one alone."""
    return not caller.remote and bool(caller.scopes & _MAY_END)


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        said = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("a CALL is JSON") from error
    if not isinstance(said, dict):
        raise InvalidInput("a CALL is an object")
    return said


def _parameters(operation: Operation, said: Mapping[str, Any]) -> dict[str, Any]:
    unknown = said.keys() - operation.parameters.keys() - {_KEY}
    if unknown:
        raise UnknownKey(f"{operation.method} has no parameter {sorted(unknown)[0]!r}", hint=f"it has: {', '.join(operation.parameters)}")
    missing = operation.parameters.keys() - operation.optional - said.keys()
    if missing:
        raise InvalidInput(f"{operation.method} lacks the parameter {sorted(missing)[0]!r}")
    return {name: from_json(kind, said[name]) for name, kind in operation.parameters.items() if name in said}


async def _collect(items: AsyncIterator[Any]) -> list[bytes]:
    """As many of the items as one frame takes, as JSON."""
    page: list[bytes] = []
    size = 0
    async with aclosing(_closable(items)) as source:
        async for item in source:
            text = json.dumps(to_json(item)).encode()
            size += len(text) + 1
            if page and (size > _PAGE_BYTES or len(page) >= _PAGE_ITEMS):
                break
            if size > _PAGE_BYTES:
                raise OutputTooLarge("one entry alone is longer than a frame")
            page.append(text)
    return page


async def _is_any(items: AsyncIterator[Any]) -> bool:
    async with aclosing(_closable(items)) as source:
        async for _ in source:
            return True
    return False


async def _closable(items: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """Any iterator as a generator, which can be closed."""
    try:
        async for item in items:
            yield item
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:4])
