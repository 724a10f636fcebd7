"""The ways to the kernel that must give the same results, behind one async surface: that of `agentkernel.AsyncClient`."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

from agentkernel import AsyncClient, Client, Connection, Files, Images, Process, Sandbox, Stream

ITERATORS = {"output", "read_stream", "watch", "logs", "events", "network_log"}
_TWINS = (Client, Connection, Files, Images, Process, Sandbox, Stream)


class FromThreads:
    """An object of the sync API as if it were async: every call is made in a thread of its own, so scenarios cannot tell."""

    def __init__(self, sync: Any) -> None:
        self._sync = sync

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._sync, name)
        if not inspect.ismethod(member):
            return _shown(member)
        if name in ITERATORS:
            return lambda *arguments, **options: _iterate(lambda: member(*arguments, **options))
        if name == "sandbox":
            return lambda **options: _block(member, options)
        if name == "stream":
            return lambda *arguments, **options: FromThreads(member(*arguments, **options))

        @functools.wraps(member)
        async def call(*arguments: Any, **options: Any) -> Any:
            return _shown(await asyncio.to_thread(member, *arguments, **options))

        return call

    def __aiter__(self) -> AsyncIterator[Any]:
        return _iterate(lambda: iter(self._sync))

    async def __aenter__(self) -> FromThreads:
        await asyncio.to_thread(self._sync.__enter__)
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self._sync.__exit__, *error)


def _shown(value: Any) -> Any:
    if isinstance(value, _TWINS):
        return FromThreads(value)
    return [FromThreads(item) for item in value] if isinstance(value, list) and value and isinstance(value[0], _TWINS) else value


async def _iterate(make: Callable[[], Iterator[Any]]) -> AsyncIterator[Any]:
    iterator = await asyncio.to_thread(make)
    end = object()
    try:
        while (item := await asyncio.to_thread(next, iterator, end)) is not end:
            yield item
    finally:
        await asyncio.to_thread(iterator.close)  # type: ignore[attr-defined]


@asynccontextmanager
async def _block(make: Callable[..., Any], options: dict[str, Any]) -> AsyncIterator[FromThreads]:
    manager = make(**options)
    sandbox = await asyncio.to_thread(manager.__enter__)
    try:
        yield FromThreads(sandbox)
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


class Elsewhere(NamedTuple):
    """A server, and a token of it."""

    url: str
    token: str


def open_front(name: str, elsewhere: Elsewhere | None = None) -> AbstractAsyncContextManager[Any]:
    """`async-local`, `sync-local`, `async-daemon`, `sync-daemon`; with a server `async-remote` or `sync-remote`."""
    kind, _, place = name.partition("-")
    there = elsewhere._asdict() if elsewhere is not None else {"local": place == "local"}
    return AsyncClient(**there) if kind == "async" else FromThreads(Client(**there))
