"""The path of a request means the same to the gate, to the router and to the route."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import Any

import pytest
from api.asking import HOST, JSON, Silent, ask, parts_with

from agentkernel.abc import Caller
from agentkernel.api.app import build
from agentkernel.api.limits import Limits
from agentkernel.errors import NotFound


class Noting(Silent):
    """A kernel with one sandbox, `box`, that notes which file of it is meant; it has none."""

    def __init__(self) -> None:
        self.named: list[str] = []
        self.meant: list[bytes] = []
        self.files = self

    async def info(self, caller: Caller, name: str) -> Any:
        """Describes it."""
        self.named.append(name)
        if name != "box":
            raise NotFound(f"there is no sandbox {name!r}")
        return SimpleNamespace(sandbox_id="1", started_at=0.0)

    async def open(self, caller: Caller, name: str) -> Any:
        """Opens it."""
        return self

    async def stat(self, path: str, *, follow: bool) -> Any:
        """Notes the path."""
        self.meant.append(os.fsencode(path))
        raise NotFound("nothing is there")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("tmp/x", b"/tmp/x"),
        ("/tmp/x", b"/tmp/x"),
        ("%2Ftmp%2Fx", b"/tmp/x"),
        ("tmp%2fx/", b"/tmp/x/"),
        ("%2e%2e/etc/%2E%2E", b"/../etc/.."),
        ("..%2F..%2Fetc", b"/../../etc"),
        ("a%ff%fe", b"/a\xff\xfe"),
        ("%C3%A9%CC%81", "/é\u0301".encode()),
        ("a%2541%3F%23", b"/a%41?#"),
        ("a%zz%", b"/a%zz%"),
        ("a%0Ab%20c", b"/a\nb c"),
        ("", b"/"),
    ],
)
async def test_what_stands_behind_the_verb_is_decoded_once_byte_for_byte(path: str, meant: bytes) -> None:
    kernel = Noting()
    said = await ask(build(parts_with(lambda caller: kernel)), "GET", f"/sandboxes/box/stat/{path}", [HOST])
    assert (said.status, kernel.meant) == (404, [meant])


async def test_a_nul_names_nothing() -> None:
    kernel = Noting()
    app = build(parts_with(lambda caller: kernel))
    for path in ("tmp/a%00b", "%00", "a%2F%00"):
        said = await ask(app, "GET", f"/sandboxes/box/stat/{path}", [HOST])
        assert (said.status, said.code) == (400, "invalid_input")
    assert kernel.meant == []


async def test_an_encoded_slash_separates_for_the_router_as_for_the_route() -> None:
    kernel = Noting()
    app = build(parts_with(lambda caller: kernel))
    said = await ask(app, "GET", "/sandboxes%2Fbox%2Fstat%2Fetc/x/y/z", [HOST])
    assert (said.status, kernel.named, kernel.meant) == (404, ["box"], [b"/etc/x/y/z"])


async def test_the_bound_of_a_body_is_that_of_the_route_that_takes_it() -> None:
    app = build(parts_with(lambda caller: Noting(), limits=Limits(body_bytes=10, files_body_bytes=20)))
    for path in ("/sandboxes%2Fbox/files/x", "/sandboxes/box%2Ffiles%2Fx", "/sandboxes/box/files/%ff"):
        said = await ask(app, "PUT", path, [HOST, JSON, (b"content-length", b"21")], [])
        assert (said.status, said.code) == (413, "body_too_large")
        said = await ask(app, "PUT", path, [HOST, JSON, (b"content-length", b"15")], [json.dumps({"conten": "1"}).encode()])
        assert (said.status, said.code) == (400, "unknown_key")


@pytest.mark.parametrize("name", ["%ff", "b%00x", "%F0%9F%98%80", "a%0Ab", "box%20"])
async def test_a_name_that_no_sandbox_can_have_is_no_fault(name: str) -> None:
    said = await ask(build(parts_with(lambda caller: Noting())), "GET", f"/sandboxes/{name}/stat/x", [HOST])
    assert said.status in (400, 404)


async def test_a_path_that_is_no_text_has_no_route_and_is_told_so() -> None:
    said = await ask(build(parts_with(lambda caller: Noting())), "GET", "/no/%ff%0a", [HOST])
    assert (said.status, said.code) == (404, "not_found")
