"""The loop in a thread behind the sync API: threads, running loops, interruptions, forks, endings."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from agentkernel.errors import AgentKernelError, Conflict
from agentkernel.sdk.sync.portal import Portal
from agentkernel.sdk.sync.process import pieces

FORKED = """
import os, sys
from agentkernel import Client
client = Client(local=True)
child = os.fork()
if child == 0:
    try:
        client.status()
    except Exception as error:
        client.close()
        print(error.code, error.hint, flush=True)
    os._exit(0)
os.waitpid(child, 0)
client.close()
print("parent is fine")
"""

INTERRUPTED = """
import asyncio, signal
from agentkernel.sdk.sync.portal import Portal

portal = Portal()
began, ended = [], []
interrupted = 0

async def work():
    began.append(1)
    try:
        await asyncio.sleep(0.0005)
    finally:
        ended.append(1)

async def count_tasks():
    return len(asyncio.all_tasks())

async def nothing():
    pass

signal.signal(signal.SIGALRM, signal.default_int_handler)
for microseconds in range(1, 1500):
    try:
        signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
        portal.call(work)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    assert portal.call(count_tasks) == 1, microseconds  # which is this very call's
    assert len(began) == len(ended), microseconds
assert interrupted > 100, interrupted
portal.close(nothing)
print("in order")
"""


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal()
    yield portal
    portal.close(_nothing)


async def _nothing() -> None:
    """The last work of a client that has none."""


async def _double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_many_threads_share_one_loop(portal: Portal) -> None:
    with ThreadPoolExecutor(16) as threads:
        assert sorted(threads.map(lambda number: portal.call(lambda: _double(number)), range(200))) == [2 * each for each in range(200)]


async def test_it_works_where_a_loop_runs(portal: Portal) -> None:
    assert portal.call(lambda: _double(2)) == 4


def test_an_error_reaches_the_caller(portal: Portal) -> None:
    async def fail() -> None:
        raise AgentKernelError("no")

    with pytest.raises(AgentKernelError, match="no"):
        portal.call(fail)


def test_an_interrupted_call_is_cancelled_and_has_cleaned_up_when_it_returns(portal: Portal) -> None:
    trail = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)  # the main thread waits for us
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            trail.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        portal.call(work)
    assert trail == ["cleaned up"]
    assert portal.call(lambda: _double(3)) == 6


def test_an_iteration_that_is_left_ends_its_source(portal: Portal) -> None:
    trail = []

    async def count() -> AsyncIterator[int]:
        try:
            for number in range(1000):
                yield number
        finally:
            trail.append("ended")

    for number in portal.iterate(count):
        if number == 3:
            break
    assert trail == ["ended"]
    assert list(portal.iterate(lambda: _some())) == [0, 1, 2]


async def _some() -> AsyncIterator[int]:
    for number in range(3):
        yield number


def test_what_is_forgotten_may_be_collected_in_the_thread_of_the_loop(portal: Portal) -> None:
    ended = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append("iterator")

    @asynccontextmanager
    async def block() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("block")

    class Forgotten:
        def __init__(self) -> None:
            self.iterator = portal.iterate(numbers)
            self.block = portal.inside(block())
            self.self = self  # so that it goes when the collector comes

    async def collect() -> None:
        gc.collect()
        while len(ended) < 2:
            await asyncio.sleep(0)

    gc.disable()
    try:
        forgotten = Forgotten()
        assert (next(forgotten.iterator), forgotten.block.__enter__()) == (1, 1)
        del forgotten
        portal.call(collect)
    finally:
        gc.enable()
    assert sorted(ended) == ["block", "iterator"]


def test_a_block_ends_whatever_ends_it(portal: Portal) -> None:
    trail = []

    @asynccontextmanager
    async def manager() -> AsyncIterator[str]:
        try:
            yield "value"
        finally:
            trail.append("left")

    for error in (KeyboardInterrupt, ValueError, SystemExit):
        with pytest.raises(error), portal.inside(manager()) as value:
            assert value == "value"
            raise error
    assert trail == ["left"] * 3
    assert portal.call(lambda: _double(1)) == 2


def test_a_closed_portal_says_so_to_everybody() -> None:
    portal = Portal()
    started = threading.Event()

    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lambda: portal.call(wait))
        started.wait()
        portal.close(_nothing)
        with pytest.raises(Conflict, match="closed meanwhile"):
            waiting.result()
    with pytest.raises(Conflict, match="is closed"):
        portal.call(_nothing)
    portal.close(_nothing)


def test_what_closing_raises_does_not_leave_the_thread() -> None:
    async def fail() -> None:
        raise AgentKernelError("cannot")

    before = threading.active_count()
    with pytest.raises(AgentKernelError):
        Portal().close(fail)
    assert threading.active_count() == before


def test_a_forked_process_makes_its_own_client() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["conflict make a client after the fork", "parent is fine"], done.stderr


def test_a_program_that_forgets_its_client_ends() -> None:
    code = "from agentkernel import Client; client = Client(local=True); client.status()"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_input_may_block_without_holding_the_loop_up(portal: Portal) -> None:
    gate = threading.Event()

    def blocking() -> Iterator[bytes]:
        yield b"a"
        gate.wait()
        yield b"b"

    async def collect() -> bytes:
        return b"".join([piece async for piece in pieces(blocking())])

    with ThreadPoolExecutor(1) as threads:
        collecting = threads.submit(lambda: portal.call(collect))
        assert portal.call(lambda: _double(4)) == 8
        gate.set()
        assert collecting.result() == b"ab"


def test_input_that_blocks_for_ever_does_not_keep_the_client_from_closing() -> None:
    blocked = threading.Event()

    def source() -> Iterator[bytes]:
        yield b"first"
        blocked.wait()

    async def take() -> bytes:
        given = pieces(source())
        first = await anext(given)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(given), 0.05)
        return first

    portal = Portal()
    assert portal.call(take) == b"first"
    portal.close(_nothing)
    blocked.set()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_input_that_ends_the_program_does_not_end_the_loop(portal: Portal, error: type[BaseException]) -> None:
    def ending() -> Iterator[bytes]:
        raise error
        yield b""

    async def collect() -> list[bytes]:
        return [piece async for piece in pieces(ending())]

    with pytest.raises(AgentKernelError, match=error.__name__):
        portal.call(collect)
    assert portal.call(lambda: _double(5)) == 10


def test_whenever_an_interruption_comes_the_work_does_not_go_on_without_its_caller() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=200)
    assert done.stdout == "in order\n", done.stdout + done.stderr
