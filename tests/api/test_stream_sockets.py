"""Commands, terminals and the daemon's door over WebSockets, against a real server."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from socket import MSG_DONTWAIT, SHUT_RDWR
from typing import Any

import pytest
from api.stream_world import Served, served, sh, told, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from agentkernel.api.streams import conversation
from agentkernel.channel.wire import AGENT_MAGIC, encode_hello

__all__ = ["served"]


@pytest.fixture(scope="module")
def box(served: Served) -> Iterator[str]:
    name = served.create("socketbox")
    yield name
    served.remove(name)


@pytest.fixture
def opened(served: Served, box: str) -> Iterator[Any]:
    """Opens a WebSocket with its first message; returns it and what it was told."""
    with ExitStack() as stack:

        def open_(path: str, first: dict[str, object]) -> tuple[ClientConnection, dict[str, Any]]:
            socket = stack.enter_context(served.socket(f"/sandboxes/{box}/{path}"))
            socket.send(json.dumps(first))
            return socket, json.loads(socket.recv())

        yield open_


def rest(socket: ClientConnection) -> tuple[bytes, bytes, dict[str, Any]]:
    """stdout, stderr and the end."""
    output = [b"", b"", b""]
    for message in socket:
        if isinstance(message, bytes):
            output[message[0]] += message[1:]
        else:
            return output[1], output[2], json.loads(message)
    raise AssertionError("no end was told")


def running(served: Served, box: str, word: str) -> bool:
    script = 'for p in /proc/[0-9]*; do [ "${p#/proc/}" = $$ ] || tr "\\0" " " < $p/cmdline 2> /dev/null; echo; done; :'
    return word.encode() in told(served, box, script)


def test_input_and_both_outputs_are_bytes(opened: Any) -> None:
    socket, said = opened("exec/ws", sh("cat; echo err >&2; exit 3"))
    assert set(said["started"]) == {"exec_id", "pid"}
    data = bytes(range(256)) * 4096
    for begin in range(0, len(data), 65536):
        socket.send(b"\0" + data[begin : begin + 65536])
    socket.send('{"eof": true}')
    stdout, stderr, end = rest(socket)
    assert (stdout, stderr) == (data, b"err\n")
    assert end["exit_code"] == 3 and (end["stdout_bytes"], end["stderr_bytes"]) == (len(data), 4)


def test_signals_reach_the_command(opened: Any) -> None:
    socket, _ = opened("exec/ws", sh("trap 'echo usr; exit 9' USR1; echo ready; while :; do sleep 0.05; done"))
    assert socket.recv() == b"\x01ready\n"
    socket.send('{"signal": 10}')
    assert rest(socket)[0] == b"usr\n"
    socket, _ = opened("exec/ws", {"command": ["sleep", "4720"]})
    socket.send('{"signal": 9, "tree": true}')
    end = rest(socket)[2]
    assert (end["exit_code"], end["signal"]) == (137, 9)


def test_a_terminal_has_a_size_and_changes_it(opened: Any) -> None:
    socket, _ = opened(
        "terminal", sh("trap 'stty size' WINCH; stty size; echo $TERM; while :; do read line && exit 0; done", rows=11, columns=77)
    )
    text = b""
    while b"xterm-256color" not in text:
        text += socket.recv()[1:]
    assert b"11 77" in text
    socket.send('{"resize": {"rows": 33, "columns": 99}}')
    while b"33 99" not in text:
        text += socket.recv()[1:]
    socket.send(b"\0\r")
    assert rest(socket)[2]["exit_code"] == 0


def test_a_terminal_without_a_command_is_a_shell(opened: Any) -> None:
    socket, _ = opened("terminal", {})
    socket.send(b"\0echo $((6 * 7))\rexit 4\r")
    stdout, _, end = rest(socket)
    assert b"42\r\n" in stdout and end["exit_code"] == 4


def test_control_c_on_a_terminal_is_a_signal(opened: Any) -> None:
    socket, _ = opened("terminal", {"command": ["sh", "-c", "echo ready; exec sleep 4721"]})
    assert b"ready" in socket.recv()
    socket.send(b"\0\x03")
    assert rest(socket)[2]["signal"] == 2


def test_what_is_wrong_is_said_and_ends_nothing(opened: Any) -> None:
    socket, _ = opened("exec/ws", {"command": ["cat"]})
    for wrong in ("{", '{"resize": {"rows": 0, "columns": 1}}', '{"colour": 1}', '{"signal": 99}', b"\x01x", b""):
        socket.send(wrong)
        said = json.loads(socket.recv())
        assert said["success"] is False and said["code"] in ("invalid_input", "unknown_key"), (wrong, said)
    socket.send(b"\0still here")
    socket.send('{"eof": true}')
    assert rest(socket)[0] == b"still here"


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ("{", "invalid_input"),
        ('{"command": []}', "invalid_input"),
        ('{"command": ["x"], "colour": 1}', "unknown_key"),
        ('{"command": ["x"], "rows": 3}', "invalid_input"),
        ('{"exec_id": "zz"}', "invalid_input"),
        ('{"exec_id": "77"}', "not_found"),
        (b"\0\1", "invalid_input"),
        ("[]", "invalid_input"),
    ],
)
def test_a_wrong_first_message_closes_with_the_reason(served: Served, box: str, first: str | bytes, code: str) -> None:
    with served.socket(f"/sandboxes/{box}/exec/ws") as socket:
        socket.send(first)
        assert json.loads(socket.recv())["code"] == code
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008 and closed.value.rcvd.reason


def test_a_sandbox_that_is_not_there_refuses_the_handshake(served: Served) -> None:
    with pytest.raises(InvalidStatus) as refused, served.socket("/sandboxes/nobody/terminal"):
        pass
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body or b"")["code"] == "not_found"


def test_a_command_that_there_is_not_ends_with_127(served: Served, box: str) -> None:
    with served.socket(f"/sandboxes/{box}/exec/ws") as socket:
        socket.send('{"command": ["no-such-program"]}')
        assert json.loads(socket.recv())["exit_code"] == 127


def test_a_client_that_goes_ends_its_command_and_not_its_detached_one(served: Served, box: str, opened: Any) -> None:
    foreground, _ = opened("terminal", {"command": ["sleep", "4722"]})
    background, _ = opened("exec/ws", {"command": ["sleep", "4723"], "detached": True})
    until(lambda: running(served, box, "4722") and running(served, box, "4723"))
    foreground.close()
    background.close()
    until(lambda: not running(served, box, "4722"))
    assert running(served, box, "4723")


def test_a_client_whose_input_waits_is_missed_when_it_goes(served: Served, box: str, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody reads its input nobody reads from its connection either: only what is sent to it tells that it has gone."""
    monkeypatch.setattr(conversation, "WAITING_S", 0.1)
    socket, _ = opened("exec/ws", {"command": ["sleep", "4724"]})

    frames = memoryview(Frame(Opcode.BINARY, bytes(65536)).serialize(mask=True) * 400)  # 25 MiB: more than sockets and windows hold
    said = ""
    while not said:
        with suppress(BlockingIOError):
            frames = frames[socket.socket.send(frames, MSG_DONTWAIT) :]
        with suppress(TimeoutError):
            said = socket.recv(timeout=0.01)
    assert said == '{"waiting":"stdin"}'
    socket.socket.shutdown(SHUT_RDWR)
    until(lambda: not running(served, box, "4724"))


def test_a_client_that_does_not_read_stops_the_command(served: Served, box: str, opened: Any) -> None:
    """The bound is on what was produced inside: what fits the rings, the sockets and the pipe, and no more than that, ever."""
    socket, _ = opened("exec/ws", sh("while :; do head -c 65536 /dev/zero; printf x >> /tmp/made; done"))
    looks: list[int] = []

    def still() -> bool:
        looks.append(len(served.http.get(f"/sandboxes/{box}/download/tmp/made").content))
        return len(looks) > 60 and len(set(looks[-60:])) == 1

    until(still)
    assert looks[-1] < 500, "32 MiB were made and nobody has read them"
    socket.socket.shutdown(SHUT_RDWR)


def test_a_detached_command_is_taken_up_with_its_input(opened: Any) -> None:
    first, said = opened("exec/ws", sh("echo before; read line; echo got $line; read line; exit 6", detached=True))
    assert first.recv() == b"\x01before\n"
    first.close()
    ident = said["started"]["exec_id"]
    second, said = opened("exec/ws", {"exec_id": ident, "stdout": 3})
    assert said["started"]["exec_id"] == ident
    assert second.recv() == b"\x01ore\n"
    second.send(b"\0word\n")
    assert second.recv() == b"\x01got word\n"
    third, _ = opened("exec/ws", {"exec_id": ident, "stdout": 16})
    third.send(b"\0end\n")
    assert rest(third)[2]["exit_code"] == 6
    assert rest(second)[2]["exit_code"] == 6
    again, _ = opened("exec/ws", {"exec_id": ident, "stdout": 7})
    stdout, _, end = rest(again)
    assert (stdout, end["exit_code"]) == (b"got word\n", 6)


def test_many_terminals_at_once(opened: Any) -> None:
    """The whole number, 200, is a benchmark's."""
    terminals = [opened("terminal", {"command": ["cat"]})[0] for _ in range(30)]
    for number, socket in enumerate(terminals):
        socket.send(f"\0number {number}\r".encode())
    for number, socket in enumerate(terminals):
        text = b""
        while text.count(f"number {number}\r\n".encode()) < 2:  # the terminal's echo, and the command's own
            text += socket.recv()[1:]


def test_the_door_carries_the_daemons_bytes(served: Served, request: pytest.FixtureRequest) -> None:
    url = f"ws://127.0.0.1:{served.port}/door"
    if "engine" in request.node.name:
        with pytest.raises(InvalidStatus) as refused, connect(url, subprotocols=["agentkernel.door.v1"], proxy=None):  # type: ignore[list-item]
            pass
        assert refused.value.response.status_code == 422
        return
    with connect(url, subprotocols=["agentkernel.door.v1"], compression=None, proxy=None) as socket:  # type: ignore[list-item]
        epoch = struct.pack("<I", 7) + bytes(12)
        hello = encode_hello(epoch)
        socket.send(hello[:5])
        socket.send(hello[5:])
        answer = b""
        while len(answer) < 24:
            answer += socket.recv()  # type: ignore[operator]
        assert answer.startswith(AGENT_MAGIC + epoch)
        socket.send("text")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


def test_the_door_is_no_page(served: Served) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{served.port}/door", proxy=None):
        pass
    assert refused.value.response.status_code == 400
