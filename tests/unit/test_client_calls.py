"""Plain calls of the door, against a scripted daemon on a real socket."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.door_server import CALL, FAILED, REPLY, SIGNAL, Attach, DoorServer, Frame

from agentkernel.channel import door
from agentkernel.channel.refusal import encode_refusal
from agentkernel.client.calls import Calls
from agentkernel.errors import AgentKernelError, Conflict, DaemonUnavailable, NotFound, OutputTooLarge
from agentkernel.model.record import EventFilter, SandboxFilter
from agentkernel.model.status import Status

INFO = {
    "sandbox_id": "0123456789abcdef",
    "name": "box",
    "owner": "ann",
    "status": "running",
    "backend": "memory",
    "isolation": "none",
    "image": "host",
    "profile": "moderate",
    "created_at": 5.0,
}
Answer = Callable[[dict[str, object]], object]


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls({"AGENTKERNEL_SOCKET": str(tmp_path / "socket")}, starts=False)


def _next(attach: Attach) -> tuple[Frame, dict[str, object]]:
    """The next call that is none of the greeting."""
    while True:
        frame = attach.next(CALL)
        said = json.loads(frame.payload)
        if said["op"] != "hello":
            return frame, said


def _answering(*answers: Answer) -> Callable[[Attach], None]:
    def script(attach: Attach) -> None:
        for answer in answers:
            frame, said = _next(attach)
            result = answer(said)
            if isinstance(result, AgentKernelError):
                attach.send(FAILED, encode_refusal(result), ident=frame.ident)
            else:
                attach.send(REPLY, json.dumps(result).encode(), ident=frame.ident)
        attach.until_closed()

    return script


def _serve(tmp_path: Path, *scripts: Callable[[Attach], None], state: int = 0) -> DoorServer:
    return DoorServer(tmp_path / "socket", *scripts, state=state)


def test_an_answer_is_what_the_table_says(calls: Calls, tmp_path: Path) -> None:
    with _serve(tmp_path, _answering(lambda said: INFO if said == {"op": "info", "name": "box"} else None)), calls:
        assert calls.info("box").status is Status.RUNNING


def test_an_error_is_of_its_own_class(calls: Calls, tmp_path: Path) -> None:
    server = _serve(tmp_path, _answering(lambda _: Conflict("it runs", hint="stop it")))
    with server, calls, pytest.raises(Conflict, match="it runs") as caught:
        calls.remove("box", force=False)
    assert caught.value.hint == "stop it"


def test_what_a_lost_daemon_had_not_answered_is_asked_of_the_next_as_the_same(calls: Calls, tmp_path: Path) -> None:
    seen: list[dict[str, object]] = []

    def answer(said: dict[str, object]) -> object:
        seen.append(said)
        return INFO

    with _serve(tmp_path, lambda attach: seen.append(_next(attach)[1]), _answering(answer)), calls:
        assert calls.started("box").name == "box"
    assert seen[0] == seen[1]
    assert len(str(seen[0]["key"])) == 32


def test_a_removal_whose_answer_was_lost_is_no_failure(calls: Calls, tmp_path: Path) -> None:
    with _serve(tmp_path, lambda attach: _next(attach) and None, _answering(lambda _: NotFound("gone"))), calls:
        calls.remove("box", force=True)


def test_a_removal_of_nothing_is_one(calls: Calls, tmp_path: Path) -> None:
    with _serve(tmp_path, _answering(lambda _: NotFound("there is none"))), calls, pytest.raises(NotFound):
        calls.remove("box", force=True)


def test_a_daemon_that_ends_is_left_for_the_next(calls: Calls, tmp_path: Path) -> None:
    ending = _answering(lambda _: DaemonUnavailable("it is ending"))
    with _serve(tmp_path, ending, _answering(lambda _: INFO)), calls:
        assert calls.info("box").name == "box"

    def then_serves(attach: Attach) -> None:
        server.state = 0

    with _serve(tmp_path, then_serves, _answering(lambda _: INFO), state=door.DRAINING) as server, calls:
        assert calls.info("box").name == "box"


def test_without_a_daemon_it_is_said_and_none_is_started(calls: Calls, tmp_path: Path) -> None:
    with pytest.raises(DaemonUnavailable, match="no daemon is running"):
        calls.info("box")
    with pytest.raises(DaemonUnavailable, match="cannot be used: AF_UNIX path too long"):
        Calls({"AGENTKERNEL_SOCKET": "/" + "x" * 200}).info("box")


def test_lists_come_page_by_page(calls: Calls, tmp_path: Path) -> None:
    pages: list[Answer] = [
        lambda said: [INFO | {"sandbox_id": f"{at:016x}"} for at in (1, 2)],
        lambda said: [INFO | {"sandbox_id": f"{3:016x}"}] if said["wanted"] == {"after": f"{2:016x}", "limit": 2} else None,
    ]
    with _serve(tmp_path, _answering(*pages)), calls:
        assert [int(info.sandbox_id, 16) for info in calls.sandboxes(SandboxFilter(limit=2))] == [1, 2, 3]


def test_a_page_that_no_frame_holds_is_asked_for_in_shorter_ones(calls: Calls, tmp_path: Path) -> None:
    limits: list[int] = []

    def answer(said: dict[str, object]) -> object:
        wanted = said["wanted"]
        assert isinstance(wanted, dict)
        limits.append(wanted.get("limit", 100))
        if limits[-1] > 3:
            return OutputTooLarge("the answer takes too many bytes")
        return [INFO | {"sandbox_id": f"{at:016x}"} for at in range(int(wanted.get("after", "0"), 16) + 1, 6)][: limits[-1]]

    with _serve(tmp_path, _answering(*[answer] * 4)), calls:
        assert [int(info.sandbox_id, 16) for info in calls.sandboxes(SandboxFilter(limit=12))] == [1, 2, 3, 4, 5]
    assert limits == [12, 6, 3, 3]


def test_events_are_asked_for_from_the_last_one_on(calls: Calls, tmp_path: Path) -> None:
    event = {"kind": "sandbox.created", "at": 1.0, "principal": "ann"}
    after: list[object] = []

    def answer(said: dict[str, object]) -> object:
        wanted = said["wanted"]
        assert isinstance(wanted, dict)
        after.append(wanted.get("after", 0))
        return [event | {"event_id": 7}] if len(after) == 1 else []

    with _serve(tmp_path, _answering(answer, answer)), calls:
        assert [found.event_id for found in calls.events(EventFilter())] == [7]
    assert after == [0, 7]


def test_logs_are_asked_for_behind_what_has_come(calls: Calls, tmp_path: Path) -> None:
    entry = {"at": 1.0, "exec_id": 9, "stream": 1, "data": "x"}
    asked: list[object] = []

    def answer(said: dict[str, object]) -> object:
        asked.append(said["since"])
        return [entry, entry | {"at": 2.5}] if len(asked) == 1 else []

    with _serve(tmp_path, _answering(answer, answer)), calls:
        assert [found.data for found in calls.logs("box", exec_id=0, since=0.0, follow=False)] == [b"x", b"x"]
    assert asked == [0.0, 2.5]


def test_a_signal_goes_to_the_whole_tree(calls: Calls, tmp_path: Path) -> None:
    told: list[dict[int, list[bytes]]] = []

    def script(attach: Attach) -> None:
        frame = attach.next(SIGNAL)
        told.append(door.decode_request(frame.payload))
        attach.send(REPLY, ident=frame.ident)
        attach.until_closed()

    with _serve(tmp_path, script), calls:
        calls.signal("box", 9, 15)
    assert told == [{door.SANDBOX: [b"box"], door.INNER: [struct.pack("<QII", 9, 15, 1)]}]
