"""A server that listens: streamable HTTP through the official client, and who is not let in."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any

import httpx2
import pytest
from e2e.host import processes_named
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from agentkernel.config.tokens import TokenStore
from agentkernel.mcp.desks import MAX_SESSIONS

DEADLINE_S = 60.0
ACCEPT = {"Accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@contextmanager
def listening(servers: Any, *options: str) -> Iterator[str]:
    """The address of a server, which must end in order."""
    with servers.start("mcp", "--http", "--port", "0", *options) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().decode().strip()
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def at(daemon_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server with a daemon."""

    class Starts:
        def start(self, *arguments: str) -> subprocess.Popen[bytes]:
            argv = [sys.executable, "-m", "agentkernel", *arguments]
            return subprocess.Popen(argv, stdout=subprocess.PIPE, env=daemon_environment, cwd=tmp_path_factory.mktemp("http"))

    with listening(Starts()) as url:
        yield url


@pytest.fixture(scope="module")
def tokens(daemon_environment: dict[str, str]) -> TokenStore:
    """The user's tokens."""
    return TokenStore(daemon_environment)


@asynccontextmanager
async def client(url: str, token: str, mode: str = "auto") -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=DEADLINE_S) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as found,
    ):
        yield found


@asynccontextmanager
async def removed_meanwhile(other: AbstractAsyncContextManager[Client]) -> AsyncIterator[Client]:
    """A client whose token is removed before it ends: whether it minds is the client's affair."""
    found = await other.__aenter__()
    try:
        yield found
    finally:
        with suppress(Exception):
            await other.__aexit__(None, None, None)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_tools_are_called_with_progress_and_images_and_structure(at: str, tokens: TokenStore, behind_daemon: Any, mode: str) -> None:
    told: list[str] = []

    async def progress(_count: float, _total: float | None, message: str | None) -> None:
        told.append(message or "")

    async with client(at, tokens.default()[0], mode) as model:
        ran = await model.call_tool("sandbox_run", {"command": "echo hello; exit 2"}, progress_callback=progress)
        assert (ran.structured_content["stdout"], ran.structured_content["exit_code"]) == ("hello\n", 2)
        while not {"making a sandbox", "hello"} <= set(told):
            await asyncio.sleep(0.01)
        await model.call_tool("sandbox_create", {"name": f"box-{mode}", "temporary": True})
        arguments = {"name": f"box-{mode}", "path": "/tmp/i", "content": "/9j/4AAQ", "encoding": "base64"}
        await model.call_tool("sandbox_file_write", arguments)
        shown = await model.call_tool("sandbox_file_read", {"name": f"box-{mode}", "path": "/tmp/i"})
        assert (shown.content[0].type, shown.content[0].mime_type, shown.content[0].data) == ("image", "image/jpeg", "/9j/4AAQ")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_call_that_is_cancelled_ends_its_command(
    at: str, tokens: TokenStore, behind_daemon: Any, until: Callable[..., None], mode: str
) -> None:
    marker = f"75319.{mode == 'auto':d}8642"
    async with client(at, tokens.default()[0], mode) as model:
        call = asyncio.create_task(model.call_tool("sandbox_run", {"command": ["sleep", marker]}))
        await asyncio.to_thread(until, lambda: processes_named(marker))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(until, lambda: not processes_named(marker))


async def test_a_token_may_do_what_its_scopes_say(at: str, tokens: TokenStore, behind_daemon: Any) -> None:
    for name, scope in (("looks", "read-only"), ("runs", "run-only"), ("one", "sandbox:lent")):
        behind_daemon.run("create", "lent", "--start") if name == "one" else None
        secret = tokens.create(name, [scope])
        try:
            async with client(at, secret) as model:
                ran = await model.call_tool("sandbox_run", {"command": "echo ran"})
                made = await model.call_tool("sandbox_create", {"name": "more"})
                assert made.is_error and made.structured_content["code"] == "refused"
                assert ran.is_error is (name != "runs")
                if name == "one":
                    used = await model.call_tool("sandbox_exec", {"name": "lent", "command": "echo used"})
                    assert used.structured_content["stdout"] == "used\n"
        finally:
            tokens.remove(name)
    async with httpx2.AsyncClient() as http:
        refused = await http.post(at, json=PING, headers=ACCEPT | {"Authorization": f"Bearer {secret}"})
        assert refused.status_code == 401


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_what_a_removed_token_has_under_way_ends_and_what_others_have_does_not(
    at: str, tokens: TokenStore, behind_daemon: Any, until: Callable[..., None], mode: str
) -> None:
    theirs, ours = f"75319.{mode == 'auto':d}1111", f"75319.{mode == 'auto':d}2222"
    secret = tokens.create("leaves", ["full"])
    async with client(at, tokens.default()[0], mode) as stays:
        await stays.call_tool("sandbox_create", {"name": f"stays-{mode}"})
        going = asyncio.create_task(stays.call_tool("sandbox_exec", {"name": f"stays-{mode}", "command": ["sleep", ours]}))
        async with removed_meanwhile(client(at, secret, mode)) as leaves:
            await leaves.call_tool("sandbox_create", {"name": f"gone-{mode}", "temporary": True})
            calls = [
                asyncio.create_task(leaves.call_tool("sandbox_run", {"command": ["sleep", theirs]})),
                asyncio.create_task(leaves.call_tool("sandbox_exec", {"name": f"gone-{mode}", "command": ["sleep", theirs]})),
            ]
            await asyncio.to_thread(until, lambda: len(processes_named(theirs)) == 2 and processes_named(ours))
            tokens.remove("leaves")
            for ended in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(ended, Exception), ended
            await asyncio.to_thread(until, lambda: not processes_named(theirs))
            with pytest.raises(Exception):  # noqa: B017 - the client has one of its own for each way in which a server can refuse it
                await leaves.call_tool("sandbox_list")
        listed = await stays.call_tool("sandbox_list")
        while [box["name"] for box in listed.structured_content["sandboxes"]] != [f"stays-{mode}"]:  # its temporary one goes
            listed = await stays.call_tool("sandbox_list")
        assert processes_named(ours) and not going.done()
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going


async def test_a_session_ends_with_its_token_and_so_does_its_stream(at: str, tokens: TokenStore) -> None:
    secret = tokens.create("streams", ["full"])
    said = ACCEPT | {"MCP-Protocol-Version": "2025-06-18", "Authorization": f"Bearer {secret}"}
    async with httpx2.AsyncClient(timeout=DEADLINE_S) as http:
        begun = await http.post(at, json=INITIALIZE, headers=said)
        said["Mcp-Session-Id"] = begun.headers["mcp-session-id"]
        assert (await http.post(at, json=PING, headers=said)).status_code == 200
        async with http.stream("GET", at, headers=said) as stream:
            assert stream.status_code == 200
            tokens.remove("streams")
            async for _ in stream.aiter_bytes():
                pass  # it has an end, and a good one
        assert (await http.post(at, json=PING, headers=said)).status_code == 401
        again = tokens.create("streams", ["full"])
        try:
            taken = await http.post(at, json=PING, headers=said | {"Authorization": f"Bearer {again}"})
            assert taken.status_code == 404  # another token of the same name is no way to what the first has left
        finally:
            tokens.remove("streams")


async def test_sessions_of_one_token_are_bounded_and_take_no_other_tokens_place(at: str, tokens: TokenStore) -> None:
    secret = tokens.create("greedy", ["read-only"])
    said = ACCEPT | {"MCP-Protocol-Version": "2025-06-18"}
    greedy = said | {"Authorization": f"Bearer {secret}"}
    try:
        async with httpx2.AsyncClient(timeout=DEADLINE_S) as http:
            for _ in range(MAX_SESSIONS):
                assert (await http.post(at, json=INITIALIZE, headers=greedy)).status_code == 200
            assert (await http.post(at, json=INITIALIZE, headers=greedy)).status_code == 503
            other = said | {"Authorization": f"Bearer {tokens.default()[0]}"}
            begun = await http.post(at, json=INITIALIZE, headers=other)
            assert begun.status_code == 200
            over = await http.delete(at, headers=other | {"Mcp-Session-Id": begun.headers["mcp-session-id"]})
            assert over.status_code == 200
    finally:
        tokens.remove("greedy")


async def test_who_is_not_let_in(at: str, tokens: TokenStore, behind_daemon: Any) -> None:
    good = f"Bearer {tokens.default()[0]}"
    port = at.split(":")[2].split("/")[0]
    refusals = [
        ({}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer ak_" + "A" * 43}, 401),
        ({"Authorization": good[:-1]}, 401),
        ({"Authorization": good.replace("Bearer", "Basic")}, 401),
        ({"Authorization": good, "Host": "evil.example"}, 421),
        ({"Authorization": good, "Host": f"127.0.0.1.evil.example:{port}"}, 421),
        ({"Authorization": good, "Host": "127.0.0.1:1"}, 421),
        ({"Authorization": good, "Origin": "http://evil.example"}, 403),
        ({"Authorization": good, "Origin": f"https://127.0.0.1:{port}"}, 403),
        ({"Authorization": good, "Origin": "null"}, 403),
        ({"Authorization": good, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Authorization": good, "Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "evil.example"}, 421),
    ]
    async with httpx2.AsyncClient(timeout=DEADLINE_S) as http:
        for version in ("2025-06-18", "2026-07-28"):
            for headers, status in refusals:
                for method in ("POST", "GET", "DELETE"):
                    said = ACCEPT | {"MCP-Protocol-Version": version} | headers
                    answer = await http.request(method, at, json=PING if method == "POST" else None, headers=said)
                    assert answer.status_code == status, (headers, method)
                    if status == 401:
                        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_body_that_is_too_large_is_not_read(at: str, tokens: TokenStore) -> None:
    host, port = at.removeprefix("http://").split("/")[0].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        lines = ("POST /mcp HTTP/1.1", f"Host: {host}:{port}", f"Authorization: Bearer {tokens.default()[0]}", "Content-Length: 40000000")
        writer.write("\r\n".join((*lines, "", "")).encode())
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readline()).split()[1] == b"413"
    finally:
        writer.close()
        await writer.wait_closed()
