"""Commands as Server-Sent Events, against a real server."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest
from api.stream_world import Served, events_of, following, served, sh, told, until, whole

__all__ = ["served"]


@pytest.fixture(scope="module")
def box(served: Served) -> Iterator[str]:
    name = served.create("box")
    yield name
    served.remove(name)


def made(served: Served, box: str) -> int:
    """How far the command has counted."""
    answer = served.http.get(f"/sandboxes/{box}/download/tmp/count")
    return len(answer.content) if answer.status_code == 200 else 0


def test_a_command_is_told_from_its_start_to_its_end(served: Served, box: str) -> None:
    answer = served.http.post(f"/sandboxes/{box}/exec/stream", json=sh("cat; echo err >&2; exit 3", stdin="in"))
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert [events[0][0], events[-1][0]] == ["started", "exit"]
    assert (whole(events, "stdout"), whole(events, "stderr")) == (b"in", b"err\n")
    assert events[-1][2]["exit_code"] == 3 and events[-1][1] == "2,4"


def test_bytes_that_are_no_text_arrive_as_they_are(served: Served, box: str) -> None:
    script = r"head -c 300000 /dev/urandom > /tmp/random; cat /tmp/random; printf '\303\250\377\342\202\254'"
    path = f"/sandboxes/{box}/download/tmp/random"
    events = events_of(served.http.post(f"/sandboxes/{box}/exec/stream", json=sh(script)).text)
    assert whole(events, "stdout") == served.http.get(path).content + b"\xc3\xa8\xff\xe2\x82\xac"


def test_text_stays_text_wherever_it_is_cut(served: Served, box: str) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do printf 'ä€𝄞 '; i=$((i + 1)); done"
    events = events_of(served.http.post(f"/sandboxes/{box}/exec/stream", json=sh(script)).text)
    assert whole(events, "stdout").decode() == "ä€𝄞 " * 20000
    assert all("data" in said for name, _, said in events if name == "stdout")


def test_a_command_that_there_is_not_ends_with_127(served: Served, box: str) -> None:
    events = events_of(served.http.post(f"/sandboxes/{box}/exec/stream", json={"command": ["no-such-program"]}).text)
    assert [(name, said["exit_code"], said["code"]) for name, _, said in events] == [("exit", 127, "command_not_found")]


def test_what_fails_before_the_start_is_an_error_answer(served: Served, box: str) -> None:
    missing = served.http.post("/sandboxes/nobody/exec/stream", json=sh("true"))
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    cut = served.http.post(f"/sandboxes/{box}/exec/stream", json=sh("true", output_limit_bytes=5))
    assert (cut.status_code, cut.json()["code"]) == (400, "invalid_input")


def test_a_run_has_a_sandbox_of_its_own_and_streams(served: Served) -> None:
    events = events_of(served.http.post("/run/stream", json=sh("echo $0; cat", stdin_base64="AP8=")).text)
    assert events[0][2]["backend"] == "namespaces"
    assert whole(events, "stdout") == b"sh\n\x00\xff"
    assert events[-1][2]["exit_code"] == 0


def test_a_client_that_does_not_read_stops_the_command(served: Served, box: str) -> None:
    """The bound is on what was produced inside: what fits the rings, the sockets and the pipe, and no more than that, ever."""
    script = "while :; do head -c 65536 /dev/zero; printf x >> /tmp/count; done"
    connection = served.raw("POST", f"/sandboxes/{box}/exec/stream", sh(script))
    with connection:
        until(lambda: made(served, box))
        count = stands_still(served, box)
        assert count < 500, "32 MiB were made and nobody has read a byte"
        assert b"started" in connection.recv(65536)
        taken = 0
        while taken < 64 * 2**20:
            taken += len(connection.recv(2**20))
        until(lambda: made(served, box) > count)  # it goes on when it is read
    until(lambda: not running(served, box, "65536"))


def stands_still(served: Served, box: str) -> int:
    """The counter of a command that has come to wait: the same for so many looks that it cannot be running."""
    looks: list[int] = []

    def still() -> bool:
        looks.append(made(served, box))
        return len(looks) > 60 and len(set(looks[-60:])) == 1

    until(still)
    return looks[-1]


def running(served: Served, box: str, word: str) -> bool:
    """Whether a process inside has a word in its command line (other than the one that looks)."""
    script = 'for p in /proc/[0-9]*; do [ "${p#/proc/}" = $$ ] || tr "\\0" " " < $p/cmdline 2> /dev/null; echo; done; :'
    return word.encode() in told(served, box, script)


def test_a_client_that_goes_ends_its_command(served: Served, box: str) -> None:
    with served.http.stream("POST", f"/sandboxes/{box}/exec/stream", json=sh("sleep 4711 & sleep 4711; :")) as answer:
        events = following(answer)
        assert next(events)[0] == "started"
        until(lambda: running(served, box, "4711"))
    until(lambda: not running(served, box, "4711"))


def test_a_client_that_goes_ends_its_run(served: Served) -> None:
    with served.http.stream("POST", "/run/stream", json=sh("echo here; sleep 4712")) as answer:
        events = following(answer)
        started = next(events)
    name = started[2]["sandbox_id"]
    until(lambda: served.http.post(f"/sandboxes/{name}/exec/stream", json=sh("true")).status_code == 404)


def detached(served: Served, box: str, script: str) -> str:
    """Starts a command that goes on; returns its id."""
    with served.socket(f"/sandboxes/{box}/exec/ws") as socket:
        socket.send(json.dumps(sh(script, detached=True)))
        return str(json.loads(socket.recv())["started"]["exec_id"])


def test_a_detached_command_is_taken_up_behind_the_last_byte_that_came(served: Served, box: str) -> None:
    """Cut at every event, each time with the id of the last one: no byte is missing, none comes twice."""
    ident = detached(
        served, box, "i=0; while [ $i -lt 100 ]; do echo line $i; echo e $i >&2; i=$((i + 1)); [ $i != 50 ] || sleep 0.2; done"
    )
    taken: list[tuple[str, str, dict[str, str]]] = []
    last = ""
    for _ in itertools.count():
        headers = {"Last-Event-ID": last} if last else {}
        with served.http.stream("GET", f"/sandboxes/{box}/exec/{ident}/stream", headers=headers) as answer:
            found = next(event for event in following(answer) if event[0] != "started")
        taken.append(found)
        last = found[1]
        if found[0] == "exit":
            break
    assert whole(taken, "stdout").decode() == "".join(f"line {number}\n" for number in range(100))
    assert whole(taken, "stderr").decode() == "".join(f"e {number}\n" for number in range(100))
    assert taken[-1][2]["exit_code"] == 0


def test_a_detached_command_that_has_ended_is_told_again(served: Served, box: str) -> None:
    ident = detached(served, box, "printf 0123456789; exit 7")
    path = f"/sandboxes/{box}/exec/{ident}/stream"
    for _ in range(3):
        events = events_of(served.http.get(path, params={"stdout": 4}).text)
        assert whole(events, "stdout") == b"456789"
        assert events[-1][2]["exit_code"] == 7 and events[-1][1] == "10,0"


def test_two_clients_follow_one_detached_command(served: Served, box: str) -> None:
    ident = detached(served, box, "while [ ! -e /tmp/go ]; do echo x; sleep 0.01; done; echo end")
    path = f"/sandboxes/{box}/exec/{ident}/stream"
    with served.http.stream("GET", path) as first, served.http.stream("GET", path) as second:
        ways = [following(first), following(second)]
        for way in ways:
            assert [next(way)[0], next(way)[0]] == ["started", "stdout"]
        served.http.put(f"/sandboxes/{box}/upload/tmp/go", content=b"")
        both = [list(way) for way in ways]
    assert [whole(events, "stdout")[-4:] for events in both] == [b"end\n"] * 2


def test_a_command_that_never_was_cannot_be_taken_up(served: Served, box: str) -> None:
    assert served.http.get(f"/sandboxes/{box}/exec/{'7' * 16}/stream").status_code == 404
    assert served.http.get(f"/sandboxes/{box}/exec/7/stream", headers={"Last-Event-ID": "x"}).status_code == 400


def test_a_foreground_command_cannot_be_taken_up_by_others(served: Served, box: str) -> None:
    with served.http.stream("POST", f"/sandboxes/{box}/exec/stream", json=sh("sleep 4713")) as answer:
        events = following(answer)
        ident = next(events)[2]["exec_id"]
        assert served.http.get(f"/sandboxes/{box}/exec/{ident}/stream").status_code == 409


@pytest.mark.parametrize("end", ["stop", "remove"])
def test_the_stream_of_a_command_ends_with_its_sandbox(served: Served, end: str) -> None:
    served.create("going")
    ident = detached(served, "going", "echo here; sleep 4714")
    with served.http.stream("GET", f"/sandboxes/going/exec/{ident}/stream") as answer:
        way = following(answer)
        assert [next(way)[0], next(way)[0]] == ["started", "stdout"]
        getattr(served, end)("going")
        assert [name for name, _, _ in way] in (["error"], ["exit"])
    if end == "stop":
        served.remove("going")
