"""A request that is repeated with its key is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from api.asking import ME
from starlette.requests import Request
from starlette.responses import Response

from agentkernel.abc import Caller
from agentkernel.api.envelope import answer
from agentkernel.api.idempotency import KEEP_S, Replays
from agentkernel.errors import AgentKernelError, Busy, Conflict, InvalidInput, LaunchFailed, SandboxLost

OTHER = Caller(principal="another")


def asked(key: str | None = "k1", body: bytes = b"{}", path: str = "/run", keys: tuple[str, ...] = ()) -> Request:
    """A POST with that key."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"idempotency-key", each.encode("latin-1")) for each in ((key,) if key is not None else ()) + keys]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "server": ("localhost", 80)}
    return Request(scope, receive)


class Work:
    """Counts how often it is done; each answer says which time it was."""

    def __init__(self, error: AgentKernelError | None = None) -> None:
        self.times = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error = error

    async def __call__(self) -> Response:
        self.times += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return answer({"time": self.times}, status=201)


async def test_a_repeat_gets_the_answer_that_was_given() -> None:
    replays, work = Replays(), Work()
    first = await replays.once(asked(), ME, work)
    again = await replays.once(asked(), ME, work)
    assert work.times == 1
    assert (again.status_code, bytes(again.body)) == (201, bytes(first.body))
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert again.headers["content-type"] == "application/json"


async def test_without_a_key_it_is_done_each_time() -> None:
    replays, work = Replays(), Work()
    await replays.once(asked(None), ME, work)
    await replays.once(asked(None), ME, work)
    assert work.times == 2


async def test_a_repeat_while_the_first_is_under_way_waits_for_it() -> None:
    replays, work = Replays(), Work()
    work.may_end.clear()
    both = [asyncio.create_task(replays.once(asked(), ME, work)) for _ in range(2)]
    while not work.times:
        await asyncio.sleep(0)
    work.may_end.set()
    answers = await asyncio.gather(*both)
    assert work.times == 1
    assert len({bytes(each.body) for each in answers}) == 1


async def test_work_with_a_key_goes_on_when_its_client_goes() -> None:
    replays, work = Replays(), Work()
    work.may_end.clear()
    gone = asyncio.create_task(replays.once(asked(), ME, work))
    while not work.times:
        await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    work.may_end.set()
    assert (await replays.once(asked(), ME, work)).status_code == 201
    assert work.times == 1


async def test_work_without_a_key_ends_with_its_client() -> None:
    replays, work = Replays(), Work()
    work.may_end.clear()
    gone = asyncio.create_task(replays.once(asked(None), ME, work))
    while not work.times:
        await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    work.may_end.set()
    assert work.times == 1


@pytest.mark.parametrize("other", [{"body": b'{"other":1}'}, {"path": "/sandboxes"}])
async def test_the_same_key_for_another_request_is_a_conflict(other: dict[str, Any]) -> None:
    replays, work = Replays(), Work()
    await replays.once(asked(), ME, work)
    with pytest.raises(Conflict):
        await replays.once(asked(**other), ME, work)
    assert work.times == 1


async def test_keys_of_different_callers_have_nothing_to_do_with_each_other() -> None:
    replays, work = Replays(), Work()
    await replays.once(asked(), ME, work)
    await replays.once(asked(body=b"[]"), OTHER, work)
    assert work.times == 2


async def test_what_failed_before_anything_was_done_is_done_again() -> None:
    replays, work = Replays(), Work(LaunchFailed("no"))
    for _ in range(2):
        with pytest.raises(LaunchFailed):
            await replays.once(asked(), ME, work)
    assert work.times == 2


async def test_what_may_have_been_done_is_not_done_again() -> None:
    replays, work = Replays(), Work(SandboxLost("who knows"))
    for _ in range(2):
        with pytest.raises(SandboxLost):
            await replays.once(asked(), ME, work)
    assert work.times == 1


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "\x7f", "é"])
async def test_a_key_is_visible_ascii(key: str) -> None:
    with pytest.raises(InvalidInput):
        await Replays().once(asked(key), ME, Work())


async def test_two_keys_are_one_too_many() -> None:
    with pytest.raises(InvalidInput):
        await Replays().once(asked("a", keys=("b",)), ME, Work())


async def test_answers_are_forgotten_after_ten_minutes() -> None:
    now = [1.0]
    replays, work = Replays(lambda: now[0]), Work()
    await replays.once(asked(), ME, work)
    now[0] += KEEP_S - 1
    await replays.once(asked(), ME, work)
    assert work.times == 1
    now[0] += 2
    await replays.once(asked(), ME, work)
    assert work.times == 2


async def many(replays: Replays, do: Callable[[], Awaitable[Response]], count: int) -> None:
    for number in range(count):
        await replays.once(asked(f"m{number}"), ME, do)


async def test_only_so_many_answers_and_bytes_are_kept() -> None:
    for replays in (Replays(most=4), Replays(most_bytes=4 * len(answer({"time": 1}).body))):
        work = Work()
        await many(replays, work, 9)
        assert work.times == 9
        await replays.once(asked("m8"), ME, work)
        assert work.times == 9  # the last is there
        await replays.once(asked("m0"), ME, work)
        assert work.times == 10  # the first is not


async def test_nobody_pushes_out_the_answers_of_another_caller() -> None:
    size = len(answer({"time": 1}).body)
    for replays in (Replays(most=4), Replays(most_bytes=4 * size), Replays(all_bytes=6 * size)):
        own, others = Work(), Work()
        await replays.once(asked("mine"), OTHER, own)
        await many(replays, others, 9)
        again = await replays.once(asked("mine"), OTHER, own)
        assert (own.times, again.headers["idempotency-replayed"]) == (1, "true")


async def test_nobody_takes_the_room_of_another_caller() -> None:
    replays, slow, work = Replays(most=2), Work(), Work()
    slow.may_end.clear()
    waiting = [asyncio.create_task(replays.once(asked(f"w{number}"), ME, slow)) for number in range(2)]
    while slow.times < 2:
        await asyncio.sleep(0)
    with pytest.raises(Busy):
        await replays.once(asked("w3"), ME, work)
    assert (await replays.once(asked("w3"), OTHER, work)).status_code == 201
    await replays.close()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_too_many_under_way_are_refused_and_close_ends_them() -> None:
    replays, work = Replays(most=2), Work()
    work.may_end.clear()
    waiting = [asyncio.create_task(replays.once(asked(f"w{number}"), ME, work)) for number in range(2)]
    while work.times < 2:
        await asyncio.sleep(0)
    with pytest.raises(Busy):
        await replays.once(asked("w3"), ME, work)
    await replays.close()
    assert [type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)] == [asyncio.CancelledError] * 2


async def test_what_a_removed_token_has_under_way_is_cancelled_and_its_answers_are_forgotten() -> None:
    replays, done, work, others = Replays(), Work(), Work(), Work()
    await replays.once(asked("done"), ME, done)
    await replays.once(asked("done"), OTHER, others)
    work.may_end.clear()
    waiting = asyncio.create_task(replays.once(asked("waiting"), ME, work))
    while not work.times:
        await asyncio.sleep(0)
    replays.end(ME)
    assert [type(each) for each in await asyncio.gather(waiting, return_exceptions=True)] == [asyncio.CancelledError]
    await replays.once(asked("done"), ME, done)
    await replays.once(asked("done"), OTHER, others)
    assert (done.times, others.times) == (2, 1)
    await replays.close()
