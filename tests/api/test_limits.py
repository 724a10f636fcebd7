"""How much a request may hold, and how often a token may ask."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from api.asking import HOST, JSON, ME, Silent, ask, parts_with, silent
from fastapi import FastAPI, Request
from starlette.responses import Response

from agentkernel.api.app import build
from agentkernel.api.auth import Authority
from agentkernel.api.doors import Doors
from agentkernel.api.envelope import HANDLERS, answer
from agentkernel.api.gate import Gate
from agentkernel.api.limits import Limits, Rates, body_limit
from agentkernel.api.metrics import Metrics
from agentkernel.api.status import TooManyRequests
from agentkernel.config.removal import Running
from agentkernel.config.tokens import TokenStore
from agentkernel.errors import AgentKernelError, Busy

SMALL = Limits(body_bytes=10, files_body_bytes=20)
CHUNKED = (b"transfer-encoding", b"chunked")


def gated(limits: Limits, route: Any, path: str = "/echo", running: Running | None = None) -> Any:
    """An application of one route behind the gate."""
    parts = parts_with(silent, limits=limits)
    app = FastAPI(exception_handlers=HANDLERS)
    app.add_api_route(path, route, methods=["POST", "PUT"])
    app.add_middleware(
        Gate,
        parts=parts,
        doors=Doors(parts.doors, 1),
        authority=Authority(ME, None),
        running=running or Running(),
        metrics=Metrics("1"),
    )
    return app


async def echo(request: Request) -> Response:
    return answer(len(await request.body()))


async def parse(wanted: dict[str, int]) -> Response:
    return answer(wanted)


@pytest.mark.parametrize("path", ["/run", "/sandboxes", "/sandboxes/box/exec"])
async def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_read(path: str) -> None:
    app = build(parts_with(silent, limits=SMALL))
    said = await ask(app, "POST", path, [HOST, JSON, (b"content-length", b"11")], [])
    assert (said.status, said.code) == (413, "body_too_large")


@pytest.mark.parametrize("route", [echo, parse])
async def test_a_body_that_does_not_say_its_length_is_cut_where_it_is_too_long(route: Any) -> None:
    app = gated(SMALL, route)
    said = await ask(app, "POST", "/echo", [HOST, JSON, CHUNKED], [b"12345", b"67890", b"1"])
    assert (said.status, said.code) == (413, "body_too_large")


async def test_a_body_of_the_most_bytes_is_taken() -> None:
    app = gated(SMALL, echo)
    assert (await ask(app, "POST", "/echo", [HOST, CHUNKED], [b"12345", b"67890"])).body == b'{"success":true,"data":10}'
    assert (await ask(app, "POST", "/echo", [HOST, (b"content-length", b"10")], [b"1234567890"])).status == 200


@pytest.mark.parametrize("length", [b"-1", b"ten", b"1 1"])
async def test_a_length_that_is_no_number_is_refused(length: bytes) -> None:
    assert (await ask(gated(SMALL, echo), "POST", "/echo", [HOST, (b"content-length", length)])).status == 400


def test_files_may_be_longer_and_streams_as_long_as_they_are() -> None:
    assert body_limit("PUT", "/sandboxes/box/files/tmp/x", SMALL) == 20
    assert body_limit("POST", "/sandboxes/box/files", SMALL) == 20
    assert body_limit("PUT", "/sandboxes/box/upload/tmp/x", SMALL) is None
    assert body_limit("PUT", "/sandboxes/box/archive/tmp", SMALL) is None
    assert body_limit("PUT", "/sandboxes/box/upload/tmp/a\nb", SMALL) is None
    assert body_limit("POST", "/run", SMALL) == 10
    assert body_limit("POST", "/sandboxes/upload/exec", SMALL) == 10
    assert body_limit("GET", "/sandboxes/box/upload/tmp/x", SMALL) == 10


def test_a_token_that_asks_too_often_is_told_when_to_come_again() -> None:
    now = [0.0]
    rates = Rates(Limits(rate=10.0, burst=2), lambda: now[0])
    for _ in range(2):
        rates.enter("ci")
        rates.leave("ci")
    with pytest.raises(TooManyRequests) as raised:
        rates.enter("ci")
    assert raised.value.retry_after_s == pytest.approx(0.1)
    rates.enter("other")  # which is another token's own business
    now[0] += 0.1
    rates.enter("ci")
    with pytest.raises(TooManyRequests):
        rates.enter("ci")


def test_a_token_and_all_together_have_only_so_much_under_way() -> None:
    rates = Rates(Limits(rate=0.0, requests_at_once=3, token_requests_at_once=2), lambda: 0.0)
    rates.enter("a")
    rates.enter("a")
    with pytest.raises(Busy):
        rates.enter("a")
    rates.enter("b")
    with pytest.raises(Busy):
        rates.enter("c")
    rates.leave("a")
    rates.enter("c")


async def test_what_is_too_much_at_once_is_429_with_a_time_and_health_is_answered_still(tmp_path: Any) -> None:
    store = TokenStore({"AGENTKERNEL_HOME": str(tmp_path)})
    headers = [HOST, (b"authorization", b"Bearer " + store.create("ci", []).encode())]
    app = build(parts_with(silent, tokens=store, limits=Limits(rate=0.001, burst=1)))
    assert (await ask(app, "GET", "/version", headers)).status == 200
    said = await ask(app, "GET", "/version", headers)
    assert (said.status, said.code) == (429, "too_many_requests")
    assert int(said.headers["retry-after"]) >= 999
    assert (await ask(app, "GET", "/health", [HOST])).status == 200


async def test_a_failure_of_our_own_is_an_envelope_that_says_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> Response:
        raise RuntimeError("the inside of it")

    app = gated(Limits(), fail)
    said = await ask(app, "POST", "/echo", [HOST])
    assert (said.status, said.code) == (500, "error")
    assert b"inside" not in said.body
    assert "the inside of it" in caplog.text
    found = re.search(r"\(fault ([0-9a-f]{8})\)", said.body.decode())
    assert found is not None and f"fault {found[1]}: POST /echo failed" in caplog.text
    assert (await ask(app, "POST", "/echo", [HOST])).status == 500  # and what was counted was counted off


async def test_the_request_of_a_token_that_is_removed_is_ended() -> None:
    entered, running = asyncio.Event(), Running()

    async def wait() -> Response:
        entered.set()
        await asyncio.Event().wait()
        return answer(None)

    app = gated(Limits(), wait, running=running)
    asked = asyncio.create_task(ask(app, "POST", "/echo", [HOST]))
    await entered.wait()
    running.end(ME)
    said = await asked
    assert (said.status, said.code) == (401, "unauthorized")
    await running.idle(0.0)


async def test_a_request_that_the_end_of_the_server_cancels_is_told_so() -> None:
    entered = asyncio.Event()
    sent: list[Any] = []

    async def wait() -> Response:
        entered.set()
        await asyncio.Event().wait()
        return answer(None)

    async def note(message: Any) -> None:
        sent.append(message)

    asked = asyncio.create_task(ask(gated(Limits(), wait), "POST", "/echo", [HOST], send=note))
    await entered.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (503, "server_unavailable")


async def test_the_kernel_of_a_removed_token_is_closed_and_those_of_others_are_not() -> None:
    closed: list[Any] = []

    class Noted(Silent):
        async def close(self) -> None:
            closed.append(self)

    doors = Doors(lambda caller: Noted(), 1)  # type: ignore[arg-type, return-value]
    mine, other = doors.of(ME), doors.of(type(ME)(principal="another"))
    assert doors.of(ME) is mine
    await doors.drop(ME)
    assert closed == [mine.kernel]
    await doors.close()
    assert closed == [mine.kernel, other.kernel]


def test_an_answer_that_has_begun_is_not_followed_by_another() -> None:
    sent: list[str] = []

    async def app_that_breaks(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("in the middle")

    async def note(message: Any) -> None:
        sent.append(message["type"])

    parts = parts_with(silent)
    gate = Gate(
        app_that_breaks,
        parts=parts,
        doors=Doors(parts.doors, 1),
        authority=Authority(ME, None),
        running=Running(),
        metrics=Metrics("1"),
    )
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": [HOST]}
    with pytest.raises(AgentKernelError):
        asyncio.run(gate(scope, None, note))  # type: ignore[arg-type]
    assert sent == ["http.response.start"]
