"""What a request says and its route does not know is an error, and nothing was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from api.asking import HOST, JSON, Silent, ask, bearer, every_route, parts_with, silent

from agentkernel.abc import Caller
from agentkernel.api.app import build
from agentkernel.api.shapes import MAX_PORTS, MAX_RULES, MAX_WORDS
from agentkernel.config.tokens import TokenStore
from agentkernel.model.record import EventFilter


class Quiet(Silent):
    """A kernel where nothing happens, and which notes from where on it is asked what has."""

    def __init__(self) -> None:
        self.wanted: list[EventFilter] = []

    async def events(self, caller: Caller, wanted: EventFilter, *, follow: bool = False) -> Any:
        """None."""
        self.wanted.append(wanted)
        for event in ():
            yield event


def body(**fields: object) -> list[bytes]:
    return [json.dumps({"command": ["true"], **fields}).encode()]


async def test_a_parameter_that_a_route_does_not_have_is_refused() -> None:
    app = build(parts_with(silent))
    for method, path in every_route():
        said = await ask(app, method, path, [HOST, JSON], body(), query=b"apend=true")
        assert (said.status, said.code) == ((200, "") if path == "/health" else (400, "unknown_key")), path


async def test_the_nearest_parameter_is_the_hint() -> None:
    app = build(parts_with(lambda caller: Silent()))
    said = await ask(app, "PUT", "/sandboxes/box/upload/tmp/x", [HOST], query=b"mode=644&apend=true")
    assert (said.status, said.code) == (400, "unknown_key")
    assert "did you mean 'append'?" in said.body.decode()
    said = await ask(app, "POST", "/run", [HOST, JSON], body(), query=b"timeout=5")
    assert (said.status, said.code) == (400, "unknown_key")


@pytest.mark.parametrize(
    "path", ["/run/stream", "/batch/run", "/sandboxes/box/exec", "/sandboxes/box/exec/detach", "/sandboxes/box/exec/stream"]
)
async def test_a_key_that_would_not_be_kept_is_refused(path: str) -> None:
    app = build(parts_with(lambda caller: Silent()))
    content = json.dumps({"commands": [{"command": ["true"]}]}).encode() if path == "/batch/run" else body()[0]
    said = await ask(app, "POST", path, [HOST, JSON, (b"idempotency-key", b"k")], [content])
    assert (said.status, said.code) == (400, "invalid_input") and "Idempotency-Key" in said.body.decode()


async def test_a_body_without_its_type_is_refused_with_what_to_send() -> None:
    said = await ask(build(parts_with(lambda caller: Silent())), "POST", "/run", [HOST], body())
    assert said.status == 400 and "Content-Type: application/json" in said.body.decode()


async def test_a_body_that_is_compressed_is_not_taken_for_what_it_is_not() -> None:
    app = build(parts_with(lambda caller: Silent()))
    for path in ("/run", "/sandboxes/box/files"):
        said = await ask(app, "POST", path, [HOST, JSON, (b"content-encoding", b"gzip")], body())
        assert (said.status, said.code) == (415, "unsupported_media_type")
    said = await ask(app, "PUT", "/sandboxes/box/upload/tmp/x", [HOST, (b"content-encoding", b"br")])
    assert said.status == 415
    assert (await ask(app, "POST", "/run", [HOST, JSON, (b"content-encoding", b"identity")], [b"{}"])).status == 400


async def test_a_method_that_is_not_for_a_path_says_which_are() -> None:
    said = await ask(build(parts_with(lambda caller: Silent())), "PUT", "/run", [HOST])
    assert (said.status, said.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "more",
    [
        {"ports": list(range(1, MAX_PORTS + 2))},
        {"allow_hosts": ["a.example"] * (MAX_RULES + 1)},
        {"deny_hosts": ["a.example"] * (MAX_RULES + 1)},
        {"mounts": ["/a:/b"] * (MAX_PORTS + 1)},
        {"env": [f"A{number}=1" for number in range(MAX_WORDS + 1)]},
        {"env": {f"A{number}": "1" for number in range(MAX_WORDS + 1)}},
    ],
    ids=str,
)
async def test_lists_are_bounded(more: dict[str, object]) -> None:
    said = await ask(build(parts_with(lambda caller: Silent())), "POST", "/run", [HOST, JSON], body(**more))
    assert (said.status, said.code) == (400, "invalid_input")


async def test_who_has_had_no_event_yet_is_told_where_to_go_on() -> None:
    kernel = Quiet()
    app = build(parts_with(lambda caller: kernel))
    first = (await ask(app, "GET", "/events", [HOST], stays=True)).body.decode()
    place = first.split("\n")[0].removeprefix("id: ")
    assert place.startswith("@") and kernel.wanted[-1].since > 0
    again = await ask(app, "GET", "/events", [HOST, (b"last-event-id", place.encode())], stays=True)
    assert again.body.decode().startswith(f"id: {place}\n")
    assert kernel.wanted[-1].since == kernel.wanted[1].since
    assert (await ask(app, "GET", "/events", [HOST], query=b"after=7", stays=True)).body.startswith(b"id: 7\n")


@pytest.mark.parametrize("place", ["9" * 5000, "@", "@1.", "-1", "1,0", "@" + "9" * 400, str(2**62 + 1), "\u0663"])
async def test_a_place_that_is_none_is_refused(place: str) -> None:
    said = await ask(build(parts_with(lambda caller: Quiet())), "GET", "/events", [HOST, (b"last-event-id", place.encode())])
    assert (said.status, said.code) == (400, "invalid_input")


@pytest.mark.parametrize("path", ["/metrics", "/status", "/agents"])
async def test_a_token_of_one_sandbox_is_told_nothing_of_the_others(tmp_path: Path, path: str) -> None:
    store = TokenStore({"AGENTKERNEL_HOME": str(tmp_path)})
    app = build(parts_with(lambda caller: Silent(), tokens=store))
    said = await ask(app, "GET", path, [HOST, bearer(store.create("web", ["sandbox:web"]))])
    assert (said.status, said.code) == (403, "refused")
