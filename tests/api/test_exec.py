"""Commands in lasting sandboxes over HTTP, those that are waited for and those that go on by themselves; and files."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection

import pytest
from api.stream_world import DEADLINE_S, Served, served, until

__all__ = ["served"]


@pytest.fixture(scope="module")
def box(served: Served) -> Iterator[str]:
    name = served.create("box")
    yield f"/sandboxes/{name}"
    served.remove(name)


def test_a_command_is_run_to_its_end(served: Served, box: str) -> None:
    data = served.data("POST", f"{box}/exec", json={"command": ["sh", "-c", "cat; echo $A; exit 4"], "stdin": "in ", "env": {"A": "x"}})
    assert (data["output"], data["exit_code"], data["backend"]) == ("in x\n", 4, "namespaces")


def test_it_runs_as_who_it_is_to(served: Served, box: str) -> None:
    def uid(**more: object) -> str:
        return str(served.data("POST", f"{box}/exec", json={"command": ["id", "-u"], **more})["stdout"]).strip()

    assert (uid(), uid(sudo=True), uid(user="root"), uid(user="0:0")) == ("1000", "0", "0", "0")
    for wrong in ({"user": "nobody"}, {"user": "root", "sudo": True}):
        assert served.http.post(f"{box}/exec", json={"command": ["id"], **wrong}).status_code == 400


def test_one_that_does_not_start_and_one_whose_time_is_up_are_answers(served: Served, box: str) -> None:
    assert served.data("POST", f"{box}/exec", json={"command": ["no-such-program"]})["exit_code"] == 127
    late = served.data("POST", f"{box}/exec", json={"command": ["sh", "-c", "echo so far; sleep 1000"], "timeout_s": 2})
    assert (late["exit_code"], late["timed_out"], late["stdout"]) == (124, True, "so far\n")


def test_the_command_of_a_client_that_goes_is_killed_and_no_other(served: Served, box: str) -> None:
    stays = served.data("POST", f"{box}/exec/detach", json={"command": ["sleep", "4321"]})
    with served.raw("POST", f"{box}/exec", {"command": ["sleep", "1234"]}):
        until(lambda: ["sleep", "1234"] in _running(served, box))
    until(lambda: ["sleep", "1234"] not in _running(served, box))
    assert ["sleep", "4321"] in _running(served, box)
    assert served.data("POST", f"{box}/exec", json={"command": ["echo", "fine"]})["output"] == "fine\n"
    served.data("DELETE", f"{box}/exec/detached/{stays['id']}")


def _running(served: Served, box: str) -> list[list[str]]:
    return [each["argv"] for each in served.data("GET", f"{box}/processes")]


def test_a_detached_command_is_told_of_and_what_it_prints_is_kept(served: Served, box: str) -> None:
    answer = served.http.post(f"{box}/exec/detach", json={"command": ["sh", "-c", "echo out; echo err >&2; echo 12345678"]})
    assert answer.status_code == 201
    begun = answer.json()["data"]
    assert (begun["status"], begun["exit_code"], begun["command"][0]) == ("running", None, "sh")
    ended = until(lambda: _ended(served, box, begun["id"]))
    assert (ended["status"], ended["exit_code"]) == ("completed", 0)
    assert begun["id"] in [each["id"] for each in served.data("GET", f"{box}/exec/detached")]
    logs = f"{box}/exec/detached/{begun['id']}/logs"
    assert served.data("GET", logs) == {"stdout": "out\n12345678\n", "stderr": "err\n", "truncated": False}
    assert served.data("GET", logs, params={"stream": "stderr"}) == {"stderr": "err\n", "truncated": False}
    newest = served.data("GET", logs, params={"tail_bytes": 4})
    assert (newest["stdout"], newest["truncated"]) == ("678\n", True)
    log = served.data("GET", f"{box}/logs", params={"exec_id": begun["id"]})
    assert "".join(each["data"] for each in log["entries"] if each["stream"] == "stderr") == "err\n"
    first = served.data("GET", f"{box}/logs", params={"exec_id": begun["id"], "limit": 1})
    rest = served.data("GET", f"{box}/logs", params={"exec_id": begun["id"], "since": first["next_since"]})
    assert first["entries"] + rest["entries"] == log["entries"]


def _ended(served: Served, box: str, ident: str) -> dict[str, object] | None:
    found: dict[str, object] = served.data("GET", f"{box}/exec/detached/{ident}")
    return found if found["status"] != "running" else None


def test_a_detached_command_is_killed_and_signalled(served: Served, box: str) -> None:
    killed, trapped = (
        served.data("POST", f"{box}/exec/detach", json={"command": ["sh", "-c", command]})["id"]
        for command in ("sleep 999", "trap 'exit 7' TERM; touch /tmp/ready; while :; do sleep 0.05; done")
    )
    served.data("DELETE", f"{box}/exec/detached/{killed}")
    ended = until(lambda: _ended(served, box, killed))
    assert (ended["status"], ended["exit_code"]) == ("failed", 137)
    until(lambda: served.http.get(f"{box}/stat/tmp/ready").status_code == 200)
    served.data("POST", f"{box}/processes/{trapped}/signal", json={"signal": 15, "tree": False})
    assert until(lambda: _ended(served, box, trapped))["exit_code"] == 7


def test_every_command_is_killed_at_once(served: Served, box: str) -> None:
    ident = served.data("POST", f"{box}/exec/detach", json={"command": ["sleep", "999"]})["id"]
    served.data("DELETE", f"{box}/processes")
    until(lambda: _ended(served, box, ident))
    assert served.data("GET", f"{box}/processes") == []
    assert served.data("GET", f"{box}/statistics")["uptime_s"] > 0


def test_a_command_that_nobody_knows_is_not_found(served: Served, box: str) -> None:
    for method, path in (("GET", ""), ("DELETE", "")):
        response = served.http.request(method, f"{box}/exec/detached/0123456789abcdef{path}")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert served.http.get(f"{box}/exec/detached/xyz").status_code == 400


# -- files


def test_a_file_is_written_read_described_and_removed(served: Served, box: str) -> None:
    assert served.data("PUT", f"{box}/files/tmp/d/a%20b.txt", json={"content": "é", "mode": "750"}) == "Wrote 2 bytes to /tmp/d/a b.txt"
    assert served.data("GET", f"{box}/files/tmp/d/a%20b.txt") == {"content": "é", "encoding": "utf8", "size": 2}
    found = served.data("GET", f"{box}/stat/tmp/d/a%20b.txt")
    assert (found["name"], found["type"], found["mode"], found["size_bytes"], found["uid"]) == ("a b.txt", "file", 0o750, 2, 1000)
    assert [each["name"] for each in served.data("GET", f"{box}/list/tmp/d")] == ["a b.txt"]
    served.data("POST", f"{box}/move", json={"source": "/tmp/d/a b.txt", "target": "/tmp/d/c"})
    assert served.data("GET", f"{box}/files/tmp/d/c", params={"offset": 1, "length": 1})["encoding"] == "base64"
    assert served.data("DELETE", f"{box}/files/tmp/d/c") == "Deleted /tmp/d/c"
    assert served.http.get(f"{box}/files/tmp/d/c").status_code == 404


def test_bytes_of_every_kind_come_back(served: Served, box: str) -> None:
    data = bytes(range(256)) * 17
    served.data("PUT", f"{box}/files/tmp/bytes", json={"content": base64.b64encode(data).decode(), "encoding": "base64"})
    found = served.data("GET", f"{box}/files/tmp/bytes")
    assert (base64.b64decode(found["content"]), found["encoding"], found["size"]) == (data, "base64", len(data))
    assert served.http.put(f"{box}/files/tmp/x", json={"content": "*", "encoding": "base64"}).status_code == 400


def test_many_files_at_once(served: Served, box: str) -> None:
    files = {"/tmp/many/a": "1", "/tmp/many/deep/b": {"content": "Mg==", "encoding": "base64", "mode": "600"}}
    assert served.data("POST", f"{box}/files", json={"files": files}) == {"written": 2}
    assert served.data("POST", f"{box}/exec", json={"command": ["cat", "/tmp/many/a", "/tmp/many/deep/b"]})["stdout"] == "12"
    assert served.data("GET", f"{box}/stat/tmp/many/deep/b")["mode"] == 0o600
    assert served.http.post(f"{box}/files", json={"files": {"relative": "1"}}).status_code == 400


def test_directories(served: Served, box: str) -> None:
    served.data("POST", f"{box}/mkdir", json={"path": "/tmp/dirs/a/b", "parents": True})
    again = served.http.post(f"{box}/mkdir", json={"path": "/tmp/dirs/a/b"})
    full = served.http.delete(f"{box}/files/tmp/dirs")
    assert [(each.status_code, each.json()["code"]) for each in (again, full)] == [(409, "file_operation")] * 2
    served.data("DELETE", f"{box}/files/tmp/dirs", params={"recursive": True})
    assert served.http.get(f"{box}/list/tmp/dirs").status_code == 404


@pytest.mark.parametrize("path", ["tmp/../etc/hostname", "..%2f..%2f..%2fetc/hostname", "%2e%2e/%2e%2e/etc/hostname", "/etc/hostname"])
def test_a_path_names_what_a_command_inside_would_see(served: Served, box: str, path: str) -> None:
    """The host's name is another: whatever the path, it is resolved inside."""
    inside = served.data("POST", f"{box}/exec", json={"command": ["cat", "/etc/hostname"]})
    response = _get(served, f"{box}/files/{path}")
    if inside["exit_code"] == 0:
        assert response["data"]["content"] == inside["stdout"]
    else:
        assert response["code"] == "file_operation"


def test_a_link_out_of_the_sandbox_leads_nowhere(served: Served, box: str) -> None:
    served.data("POST", f"{box}/exec", json={"command": ["ln", "-sf", "/proc/1/root/root/.ssh", "/tmp/out"]})
    assert served.http.get(f"{box}/list/tmp/out").status_code in (403, 404)


def test_a_nul_in_a_path_is_refused(served: Served, box: str) -> None:
    assert _get(served, f"{box}/files/tmp/a%00b")["code"] == "invalid_input"
    assert served.http.post(f"{box}/move", json={"source": "/tmp/a\0", "target": "/b"}).status_code == 400


def test_a_name_that_is_no_utf8_is_reached(served: Served, box: str) -> None:
    served.data("PUT", f"{box}/files/tmp/odd/%ff", json={"content": "x"})
    assert _get(served, f"{box}/files/tmp/odd/%ff")["data"]["content"] == "x"
    assert [each["name"] for each in served.data("GET", f"{box}/list/tmp/odd")] == ["\udcff"]


def _get(served: Served, path: str) -> dict[str, dict[str, object]]:
    """The answer to a path as it is, which no client has tidied up."""
    with closing(HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)) as connection:
        connection.request("GET", path)
        found: dict[str, dict[str, object]] = json.loads(connection.getresponse().read())
        return found


def test_a_name_may_hold_a_newline(served: Served, box: str) -> None:
    served.data("PUT", f"{box}/files/tmp/odd/two%0Alines", json={"content": "x"})
    assert _get(served, f"{box}/files/tmp/odd/two%0Alines")["data"]["content"] == "x"
    assert _get(served, f"{box}/stat/tmp/odd/two%0Alines%0A")["code"] == "file_operation"


def test_what_may_not_be_written_says_so(served: Served, box: str) -> None:
    response = served.http.put(f"{box}/files/usr/bin/evil", json={"content": "x"})
    assert (response.status_code, response.json()["code"]) == (403, "file_operation")
