"""A server on stdin and stdout as a process: what it writes, and how it ends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from e2e.host import processes_named

DEADLINE_S = 60.0
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


class Raw:
    """The client's end of the pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def send(self, message: dict[str, Any]) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def call(self, number: int, tool: str, **arguments: object) -> None:
        params = {"name": tool, "arguments": arguments}
        self.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})

    def answer(self, number: int) -> dict[str, Any]:
        """The answer to a request; whatever comes before it must be a message, too."""
        assert self.process.stdout is not None
        while True:
            message = json.loads(self.process.stdout.readline())
            assert message["jsonrpc"] == "2.0"
            if message.get("id") == number:
                return message

    def end(self) -> tuple[list[dict[str, Any]], int]:
        """Closes stdin: what it has written since, and its exit status."""
        rest, _ = self.process.communicate(timeout=DEADLINE_S)
        return [json.loads(line) for line in rest.splitlines()], self.process.returncode


@contextmanager
def served(servers: Any, *options: str) -> Iterator[Raw]:
    with servers.start("mcp", *options) as process:
        try:
            raw = Raw(process)
            raw.send(INITIALIZE)
            assert raw.answer(0)["result"]["serverInfo"]["name"] == "agentkernel"
            raw.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            yield raw
        finally:
            process.kill()


def test_it_ends_when_stdin_is_closed_and_so_does_what_it_runs(servers: Any, until: Callable[..., None]) -> None:
    with served(servers) as raw:
        raw.call(1, "sandbox_create", name="box", temporary=True)
        raw.answer(1)
        for number, (tool, more) in enumerate((("sandbox_run", {}), ("sandbox_exec", {"name": "box"})), 2):
            raw.call(number, tool, command=["sleep", f"86420.{number}1"], **more)
            until(lambda number=number: processes_named(f"86420.{number}1"))
        messages, status = raw.end()
        assert all("error" in message for message in messages)  # of the two calls, whose end it may still tell
        assert status == 0
        until(lambda: not processes_named("86420.21") and not processes_named("86420.31"))


def test_what_is_no_message_costs_no_other_message_its_answer(servers: Any) -> None:
    with served(servers) as raw:
        for garbage in (b"\n", b"{\n", b"\xff\xfe\n", b"[]\n", b'{"jsonrpc": "1.0"}\n', b"null\n"):
            raw.write(garbage)
        raw.send({"jsonrpc": "2.0", "id": 1, "method": "no/such/method"})
        assert raw.answer(1)["error"]["code"] == -32601
        raw.call(2, "sandbox_run", command="echo 'to stdout' && echo 'to stderr' >&2; cat")
        result = raw.answer(2)["result"]
        assert result["structuredContent"]["stdout"] == "to stdout\n"
        content = "x" * 300_000
        raw.call(3, "sandbox_run", command="wc -c", stdin=content)
        assert raw.answer(3)["result"]["structuredContent"]["stdout"].strip() == "300000"
        messages, status = raw.end()
        assert (messages, status) == ([], 0)


def test_half_a_character_is_replaced_and_the_message_answered(servers: Any) -> None:
    with served(servers) as raw:
        text = "\ud800a\udc00\U0001f600\\ud800"  # sent as escapes
        raw.call(1, "sandbox_run", command="cat", stdin=text)
        assert raw.answer(1)["result"]["structuredContent"]["stdout"] == "\ufffda\ufffd\U0001f600\\ud800"


def test_a_server_that_is_killed_leaves_nothing_that_somebody_waited_for(behind_daemon: Any, until: Callable[..., None]) -> None:
    with served(behind_daemon) as raw:
        raw.call(1, "sandbox_create", name="kept")
        raw.answer(1)
        raw.call(2, "sandbox_exec_detach", name="kept", command=["sleep", "86422.1"])
        raw.answer(2)
        raw.call(3, "sandbox_exec", name="kept", command=["sleep", "86422.2"])
        raw.call(4, "sandbox_run", command=["sleep", "86422.2"])
        until(lambda: processes_named("86422.1") and len(processes_named("86422.2")) == 2)
        raw.process.kill()
        raw.process.wait(DEADLINE_S)
        until(lambda: not processes_named("86422.2"))
    assert processes_named("86422.1")
    with served(behind_daemon) as raw:  # another one finds what lasts
        raw.call(1, "sandbox_exec_list", name="kept")
        assert [command["running"] for command in raw.answer(1)["result"]["structuredContent"]["commands"]] == [True]


@pytest.mark.parametrize("ending", ["stdin", "SIGTERM"])
def test_temporary_sandboxes_go_with_the_server_and_others_stay(behind_daemon: Any, ending: str) -> None:
    with served(behind_daemon) as raw:
        for number, (name, temporary) in enumerate((("kept", False), ("gone", True)), 1):
            raw.call(number, "sandbox_create", name=name, temporary=temporary)
            assert raw.answer(number)["result"]["structuredContent"]["status"] == "running"
        if ending == "SIGTERM":
            raw.process.terminate()  # while its stdin is open
            assert raw.process.wait(DEADLINE_S) == 0
        else:
            assert raw.end() == ([], 0)
    assert behind_daemon.run("list", "--quiet").split() == ["kept"]


def test_a_server_whose_client_does_not_read_any_more_ends(servers: Any) -> None:
    with served(servers) as raw:
        assert raw.process.stdout is not None
        raw.process.stdout.close()
        raw.call(1, "sandbox_list")
        assert raw.process.wait(DEADLINE_S) == 0


def test_it_does_not_start_with_settings_that_cannot_be(servers: Any) -> None:
    for options in (("--dir", "/nonexistent/directory"), ("--share", "no/name"), ("--may", "everything"), ("--mount-cwd",)):
        done = subprocess.run(
            [*servers.argv, "mcp", *options], env=servers.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S
        )
        assert (done.returncode, done.stdout) == (2, b""), options
        assert b"error: " in done.stderr
