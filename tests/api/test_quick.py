"""POST /run and exec by the short way and by the framework's: the same answers, whatever the request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from api.stream_world import Served, served

__all__ = ["served"]

SHORT = "application/json"
LONG = "application/json; charset=utf-8"  # more words than the short way reads
BODIES = [
    b'{"command": ["sh", "-c", "echo out; echo err >&2; exit 3"]}',
    b'{"command": ["cat"], "stdin": "given"}',
    b'{"command": ["no-such-program"]}',
    b'{"comand": ["true"]}',
    b'{"command": "true"}',
    b'{"command": []}',
    b'{"command": ["true"], "stdin": "a", "stdin_base64": "YQ=="}',
    b'{"command": ["true"], "env": ["NOTHING"]}',
    b'["true"]',
    b"null",
    b"{",
    b'{"command": ["\xff"]}',
    b'{"command": ["\\ud800"]}',
    b"[" * 100_000,
    b"",
]


def answered(served: Served, path: str, body: bytes, kind: str) -> tuple[int, Any]:
    response = served.http.post(path, content=body, headers={"content-type": kind})
    said = response.json()
    if said["success"]:
        data = said["data"]
        return response.status_code, {name: data[name] for name in ("exit_code", "stdout", "stderr", "timed_out")} | {"names": sorted(data)}
    return response.status_code, said


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:48].decode("ascii", "replace") or "nothing")
def test_both_ways_answer_a_body_alike(served: Served, body: bytes) -> None:
    short = answered(served, "/run", body, SHORT)
    assert short == answered(served, "/run", body, LONG)
    assert short[0] in (200, 400)


def test_both_ways_answer_for_a_sandbox_alike(served: Served) -> None:
    name = served.data("POST", "/sandboxes", json={"name": "quick-one"})["name"]
    try:
        for body in BODIES[:5]:
            path = f"/sandboxes/{name}/exec"
            assert answered(served, path, body, SHORT) == answered(served, path, body, LONG)
        for path in ("/sandboxes/nobody/exec", "/sandboxes/%6eobody/exec", "/sandboxes/no%2fbody/exec", "/sandboxes//exec"):
            short = answered(served, path, BODIES[0], SHORT)
            assert short == answered(served, path, BODIES[0], LONG) and short[0] == 404
    finally:
        served.http.delete(f"/sandboxes/{name}?force=true")


def test_a_body_in_pieces_is_read_to_its_end(served: Served) -> None:
    whole = json.dumps({"command": ["cat"], "stdin": "x" * 200_000}).encode()
    pieces = (whole[at : at + 1000] for at in range(0, len(whole), 1000))
    response = served.http.post("/run", content=pieces, headers={"content-type": SHORT})
    assert response.json()["data"]["stdout"] == "x" * 200_000


def test_a_key_is_honoured(served: Served) -> None:
    headers = {"content-type": SHORT, "idempotency-key": "quick-key"}
    body = b'{"command": ["cat", "/proc/sys/kernel/random/uuid"]}'
    first, second = (served.http.post("/run", content=body, headers=headers) for _ in range(2))
    assert first.content == second.content and second.headers["idempotency-replayed"] == "true"
