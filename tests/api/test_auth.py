"""Each route against each kind of bad token, host and origin: none comes as far as a kernel."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest
from api.asking import HOST, JSON, Header, app_with, ask, bearer, every_route

from agentkernel.api import routes, streams
from agentkernel.api.app import ROUTERS
from agentkernel.api.auth import OPEN_PATHS
from agentkernel.api.guards import ANY_ADDRESS
from agentkernel.config.tokens import TokenStore

ROUTES = [*every_route(), ("GET", "/openapi.json"), ("GET", "/no/such/route"), ("OPTIONS", "/run")]
BAD_TOKENS: dict[str, list[Header]] = {
    "none": [],
    "empty": [(b"authorization", b"")],
    "no scheme": [(b"authorization", b"ak_" + b"x" * 43)],
    "another scheme": [(b"authorization", b"Basic YWs6YWs=")],
    "nothing behind the scheme": [(b"authorization", b"Bearer ")],
    "wrong": [(b"authorization", b"Bearer ak_" + b"x" * 43)],
    "the beginning of a good one": [],
    "a good one with more": [],
    "another case": [],
    "the digest": [],
    "bytes that are no text": [(b"authorization", b"Bearer \xff\xfe\x00")],
    "very long": [(b"authorization", b"Bearer " + b"a" * 50_000)],
    "removed": [],
    "an api key": [(b"x-api-key", b"ak_")],
}
BAD_HOSTS: dict[str, list[bytes]] = {
    "another name": [b"evil.example"],
    "another name with our port": [b"evil.example:18888"],
    "a name that ends in ours": [b"evil.localhost"],
    "a name that begins like ours": [b"localhost.evil.example"],
    "an address that begins like ours": [b"127.0.0.1.evil.example"],
    "another address": [b"192.0.2.1"],
    "with a user": [b"localhost@evil.example"],
    "a port that is none": [b"localhost:evil"],
    "empty": [b""],
    "an open bracket": [b"[::1"],
}
BAD_ORIGINS: dict[str, list[Header]] = {
    "another site": [(b"origin", b"http://evil.example")],
    "null": [(b"origin", b"null")],
    "our own name on another port": [(b"origin", b"http://localhost:3000")],
    "an allowed one with more": [(b"origin", b"https://good.example.evil.example")],
    "an allowed one without TLS": [(b"origin", b"http://good.example")],
    "empty": [(b"origin", b"")],
    "no origin, but from another site": [(b"sec-fetch-site", b"cross-site")],
    "no origin, but from a site of the same domain": [(b"sec-fetch-site", b"same-site")],
    "a word that no browser says": [(b"sec-fetch-site", b"whatever")],
}


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore({"AGENTKERNEL_HOME": str(tmp_path)})


def test_no_module_with_routes_is_left_out() -> None:
    found = []
    for package in (routes, streams):
        for each in pkgutil.iter_modules(package.__path__):
            found.append(getattr(importlib.import_module(f"{package.__name__}.{each.name}"), "router", None))
    assert {id(router) for router in found if router is not None} == {id(router) for router in ROUTERS}


def test_there_are_routes_to_try() -> None:
    assert len(ROUTES) > 50
    assert any(method == "WEBSOCKET" for method, _ in ROUTES)


@pytest.mark.parametrize("kind", BAD_TOKENS)
async def test_no_route_takes_a_bad_token(store: TokenStore, kind: str) -> None:
    good, removed = store.create("good", ["full"]), store.create("removed", ["full"])
    store.remove("removed")
    made = {
        "the beginning of a good one": good[:-1],
        "a good one with more": good + "x",
        "another case": good.swapcase(),
        "the digest": store.entries()[0].sha256,
        "removed": removed,
    }
    headers = [bearer(made[kind])] if kind in made else BAD_TOKENS[kind]
    app, doors = app_with(store)
    for method, path in ROUTES:
        if path in OPEN_PATHS:
            continue
        said = await ask(app, method, path, [HOST, JSON, *headers], [b"{}"])
        assert (method, path, said.status, said.code) == (method, path, 401, "unauthorized")
        assert said.headers["www-authenticate"].startswith("Bearer")
        assert good.encode() not in said.body
    assert doors.callers == []


@pytest.mark.parametrize("kind", BAD_HOSTS)
async def test_no_route_answers_to_another_name(store: TokenStore, kind: str) -> None:
    app, doors = app_with(store)
    good = bearer(store.create("good", ["full"]))
    for method, path in ROUTES:
        said = await ask(app, method, path, [*((b"host", host) for host in BAD_HOSTS[kind]), JSON, good], [b"{}"])
        assert (method, path, said.status, said.code) == (method, path, 403, "refused")
    assert doors.callers == []


@pytest.mark.parametrize("hosts", [[], [b"localhost", b"localhost"], [b"localhost", b"evil.example"]], ids=["none", "twice", "two"])
async def test_every_route_wants_one_host(store: TokenStore, hosts: list[bytes]) -> None:
    app, doors = app_with(store)
    good = bearer(store.create("good", ["full"]))
    for method, path in ROUTES:
        said = await ask(app, method, path, [*((b"host", host) for host in hosts), JSON, good], [b"{}"])
        assert (method, path, said.status, said.code) == (method, path, 400, "invalid_input")
    assert doors.callers == []


@pytest.mark.parametrize("kind", BAD_ORIGINS)
async def test_no_route_serves_pages_of_others_even_with_a_token(store: TokenStore, kind: str) -> None:
    app, doors = app_with(store, origins=frozenset({"https://good.example"}))
    good = bearer(store.create("good", ["full"]))
    for method, path in ROUTES:
        said = await ask(app, method, path, [HOST, JSON, good, *BAD_ORIGINS[kind]], [b"{}"])
        assert (method, path, said.status, said.code) == (method, path, 403, "refused")
        assert "access-control-allow-origin" not in said.headers
    assert doors.callers == []


async def test_a_good_token_comes_through_as_a_caller_with_its_scopes(store: TokenStore) -> None:
    app, doors = app_with(store)
    secret = store.create("ci", ["run-only"])
    said = await ask(app, "GET", "/version", [HOST, bearer(secret)])
    assert (said.status, said.code) == (500, "error")  # the kernel that there is none of
    assert [(one.principal, one.scopes, one.via, one.remote) for one in doors.callers] == [
        ("somebody", frozenset({"run-only"}), "ci", True)
    ]


async def test_two_tokens_at_once_are_refused(store: TokenStore) -> None:
    app, doors = app_with(store)
    good = bearer(store.create("good", ["full"]))
    said = await ask(app, "GET", "/version", [HOST, good, good])
    assert (said.status, said.code) == (400, "invalid_input")
    assert doors.callers == []


async def test_health_needs_no_token_but_our_name(store: TokenStore) -> None:
    app, _ = app_with(store)
    assert (await ask(app, "GET", "/health", [HOST])).body == b'{"success":true,"data":"ok"}'
    assert (await ask(app, "GET", "/health", [(b"host", b"evil.example")])).status == 403


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:18888", b"localhost.", b"127.0.0.1", b"[::1]:18888", b"[::1]"])
async def test_our_own_names_are_answered_to(store: TokenStore, host: bytes) -> None:
    app, _ = app_with(store)
    assert (await ask(app, "GET", "/health", [(b"host", host)])).status == 200


@pytest.mark.parametrize("site", [b"none", b"same-origin"])
async def test_what_the_user_typed_is_answered(store: TokenStore, site: bytes) -> None:
    app, _ = app_with(store)
    assert (await ask(app, "GET", "/health", [HOST, (b"sec-fetch-site", site)])).status == 200


async def test_any_address_will_do_where_the_server_listens_everywhere_but_no_other_name(store: TokenStore) -> None:
    app, _ = app_with(store, hosts=frozenset({"localhost", ANY_ADDRESS}))
    assert (await ask(app, "GET", "/health", [(b"host", b"192.0.2.7:18888")])).status == 200
    assert (await ask(app, "GET", "/health", [(b"host", b"[2001:db8::1]")])).status == 200
    assert (await ask(app, "GET", "/health", [(b"host", b"evil.example")])).status == 403
    assert (await ask(app, "GET", "/health", [(b"host", ANY_ADDRESS.encode())])).status == 403


async def test_a_page_that_may_ask_is_told_so_and_needs_a_token_still(store: TokenStore) -> None:
    app, doors = app_with(store, origins=frozenset({"https://good.example"}))
    origin = (b"origin", b"https://good.example")
    asked = await ask(app, "OPTIONS", "/run", [HOST, origin, (b"access-control-request-method", b"POST")])
    assert (asked.status, asked.headers["access-control-allow-origin"]) == (204, "https://good.example")
    assert "authorization" in asked.headers["access-control-allow-headers"]
    refused = await ask(app, "POST", "/run", [HOST, JSON, origin], [b"{}"])
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "https://good.example")
    assert doors.callers == []


async def test_without_tokens_everybody_who_comes_through_is_the_user() -> None:
    app, doors = app_with(None)
    await ask(app, "GET", "/version", [HOST])
    assert [(one.principal, one.via) for one in doors.callers] == [("somebody", "")]


async def test_a_damaged_list_of_tokens_lets_nobody_in(store: TokenStore, tmp_path: Path) -> None:
    app, doors = app_with(store)
    good = bearer(store.create("good", ["full"]))
    (tmp_path / "data" / "tokens.json").write_text("{")
    said = await ask(app, "GET", "/version", [HOST, good])
    assert (said.status, said.code) == (500, "store_failed")
    assert str(tmp_path) not in said.body.decode()
    assert doors.callers == []
