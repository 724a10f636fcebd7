"""What requests under way hold together is bounded: who comes when it is full comes again, and nobody's memory grows."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from api.asking import HOST, JSON, Said, Silent, ask, parts_with

from agentkernel.abc import Caller, Run
from agentkernel.api.app import build
from agentkernel.api.budget import STATE, Budget
from agentkernel.api.kept import SURE_BYTES
from agentkernel.api.lengthy import Lengthy, in_base64, text, told
from agentkernel.api.limits import Limits
from agentkernel.api.shapes import OUTPUT_BYTES
from agentkernel.errors import Busy
from agentkernel.model.command import Command, ExitStatus
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.request import SandboxRequest

PIECE = 64 << 10
TIGHT = Limits(held_bytes=6 * SURE_BYTES, token_held_bytes=3 * SURE_BYTES)


@dataclass
class Printing(Silent):
    """A kernel whose commands print `pieces` pieces to stdout, and then wait until they may end."""

    pieces: int
    content: bytes = b"x"

    def __post_init__(self) -> None:
        self.begun = 0
        self.printed = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    @asynccontextmanager
    async def run(self, caller: Caller, request: SandboxRequest, command: Command) -> AsyncIterator[Run]:
        """Begins one."""
        self.begun += 1
        process: Any = self
        yield Run(process=process, sandbox_id="1", backend="memory", isolation=IsolationLevel.NONE)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """What it prints; every piece begins with its number."""
        for number in range(self.pieces):
            yield 1, (b"%08d" % number + self.content * PIECE)[:PIECE]
        self.printed.set()
        await self.may_end.wait()

    async def wait(self) -> ExitStatus:
        """Its end."""
        return ExitStatus(exit_code=0)

    async def kill(self) -> None:
        """It has ended."""


async def _nobody(message: Any) -> None:
    """Takes it."""


async def run(app: Any, *headers: tuple[bytes, bytes], send: Any = _nobody, **more: object) -> Said:
    body = json.dumps({"command": ["yes"], **more}).encode()
    return await ask(app, "POST", "/run", [HOST, JSON, (b"content-length", b"%d" % len(body)), *headers], [body], send=send)


def whole(kernel: Printing) -> str:
    return "".join((f"{number:08d}" + kernel.content.decode() * PIECE)[:PIECE] for number in range(kernel.pieces))


def test_a_token_takes_a_part_and_all_together_no_more_than_there_is() -> None:
    budget = Budget(100, 60)
    with budget.share("a") as first, budget.share("b") as second:
        first.claim(50)
        with pytest.raises(Busy):
            first.apart().claim(20)
        second.claim(40)
        assert (second.take(30), second.take(30), budget.held) == (10, 0, 100)
        with pytest.raises(Busy):
            budget.share("c").claim(1)
        first.cover(70)  # it is there already
        assert budget.held == 120 and budget.free("c") == -20
        assert second.take(1) == 0
    assert (budget.held, budget.free("a")) == (0, 60)


def test_what_was_reserved_is_given_though_there_is_no_more() -> None:
    budget = Budget(100, 100)
    with budget.share("a") as first, budget.share("b") as second:
        first.reserve(10)
        second.claim(90)
        assert (first.take(4), first.take(4), first.take(4), first.counted) == (4, 4, 2, 10)


async def test_two_mebibytes_of_a_stream_are_told_and_more_where_that_is_asked_for() -> None:
    kernel = Printing(pieces=OUTPUT_BYTES // PIECE + 1)
    app = build(parts_with(lambda caller: kernel))
    data = json.loads((await run(app)).body)["data"]
    assert (len(data["stdout"]), data["stdout_truncated"], data["stderr_truncated"]) == (OUTPUT_BYTES, True, False)
    assert data["stdout"] == data["output"] == whole(kernel)[:OUTPUT_BYTES]
    assert data["notices"] == []
    data = json.loads((await run(app, output_limit_bytes=16 << 20)).body)["data"]
    assert (data["stdout"] == whole(kernel), data["stdout_truncated"]) == (True, False)
    assert (await run(app, output_limit_bytes=(16 << 20) + 1)).status == 400


async def test_a_command_for_whose_output_there_is_no_memory_ends_well_and_its_answer_says_so() -> None:
    kernel = Printing(pieces=20)
    app = build(parts_with(lambda caller: kernel, limits=TIGHT))
    for _ in range(2):  # nothing of the first is left
        data = json.loads((await run(app)).body)["data"]
        assert (data["exit_code"], data["stdout_truncated"]) == (0, True)
        assert 2 * PIECE < len(data["stdout"]) < 3 * PIECE and whole(kernel).startswith(data["stdout"])
        assert [each["code"] for each in data["notices"]] == ["output_short"]


async def test_who_comes_when_it_is_full_is_told_to_come_again_and_nothing_was_done() -> None:
    kernel = Printing(pieces=20)
    kernel.may_end.clear()
    app = build(parts_with(lambda caller: kernel, limits=TIGHT))
    first = asyncio.create_task(run(app))
    await kernel.printed.wait()
    refused = await run(app)
    assert (refused.status, refused.code, int(refused.headers["retry-after"]) >= 1, kernel.begun) == (429, "busy", True, 1)
    kernel.may_end.set()
    assert (await first).status == 200
    assert (await run(app)).status == 200


async def test_an_answer_counts_until_its_client_has_taken_it() -> None:
    kernel = Printing(pieces=20)
    app = build(parts_with(lambda caller: kernel, limits=TIGHT))
    begun, may_take = asyncio.Event(), asyncio.Event()
    sent: list[int] = []

    async def slow(message: Any) -> None:
        if message["type"] == "http.response.body":
            begun.set()
            await may_take.wait()
            sent.append(len(message["body"]))

    first = asyncio.create_task(run(app, send=slow))
    await begun.wait()
    assert (await run(app)).status == 429
    may_take.set()
    assert (await first).status == 200
    assert max(sent) < 4 * PIECE < sum(sent)  # held in pieces
    assert (await run(app)).status == 200


async def test_a_body_for_which_there_is_no_memory_is_refused_before_it_is_read() -> None:
    kernel = Printing(pieces=20)
    kernel.may_end.clear()
    app = build(parts_with(lambda caller: kernel, limits=TIGHT))
    first = asyncio.create_task(run(app))
    await kernel.printed.wait()
    said = await ask(app, "POST", "/gc", [HOST, JSON, (b"content-length", b"1000")], [])
    assert (said.status, said.code) == (429, "busy")
    said = await ask(app, "POST", "/gc", [HOST, JSON, (b"transfer-encoding", b"chunked")], [b" " * 1000])
    assert (said.status, said.code) == (429, "busy")
    kernel.may_end.set()
    await first


async def test_a_long_answer_is_given_again() -> None:
    kernel = Printing(pieces=5, content=b"\0")
    app = build(parts_with(lambda caller: kernel))
    first, again = [await run(app, (b"idempotency-key", b"k1")) for _ in range(2)]
    assert (kernel.begun, again.headers["idempotency-replayed"]) == (1, "true")
    assert first.body == again.body and json.loads(first.body)["data"]["stdout"] == whole(kernel)


@pytest.mark.parametrize("data", [b"\xff" * 200_000, "é€😀".encode() * 30_000, b"\xf0\x9f\x98" * 50_000 + b"\x80", bytes(range(256)) * 800])
async def test_a_long_answer_says_what_a_short_one_would(data: bytes) -> None:
    parts = {"one": text(data, data), "few": [{"a": text(data), "b": None}, text(b"short"), in_base64(data)], "n": 1.5, "é": "é"}
    answered = told(parts, len(data))
    assert isinstance(answered, Lengthy)
    budget = Budget(1, 1)
    sent: list[bytes] = []

    async def take(message: Any) -> None:
        assert budget.held == len(data)
        sent.append(message.get("body", b""))

    with budget.share("") as share:
        await answered({"type": "http", STATE: share}, None, take)  # type: ignore[arg-type]
    plain, coded = data.decode("utf-8", "replace"), base64.b64encode(data).decode()
    wanted = {"one": plain + plain, "few": [{"a": plain, "b": None}, "short", coded], "n": 1.5, "é": "é"}
    assert json.loads(b"".join(sent)) == {"success": True, "data": wanted}
    assert max(map(len, sent)) < 10 * PIECE
