"""Lasting sandboxes over HTTP: making, finding, changing and ending them; their network and ports; what is told of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from api.stream_world import Served, served

__all__ = ["served"]


@contextmanager
def made(served: Served, **body: Any) -> Iterator[dict[str, Any]]:
    response = served.http.post("/sandboxes", json=body)
    assert response.status_code == 201, response.text
    found = response.json()["data"]
    try:
        yield found
    finally:
        served.http.delete(f"/sandboxes/{found['id']}")


def test_a_sandbox_is_made_described_and_removed(served: Served) -> None:
    with made(served, name="box", memory_mb=256, vcpus=0.5, labels={"job": "7"}, profile="restrictive", ttl_s=3600) as box:
        assert (box["name"], box["status"], box["backend"], box["profile"]) == ("box", "running", "namespaces", "restrictive")
        assert (box["memory_mb"], box["vcpus"], box["labels"]) == (256, 0.5, {"job": "7"})
        assert abs(box["expires_at"] - box["created_at"] - 3600) < 1
        for name in ("box", box["id"]):
            found = served.data("GET", f"/sandboxes/{name}")
            assert found | {"used_at": 0, "notices": []} == box | {"used_at": 0, "notices": []}
        taken = served.http.post("/sandboxes", json={"name": "box"})
        assert (taken.status_code, taken.json()["code"]) == (409, "conflict")
        kept = served.http.delete("/sandboxes/box?force=false")
        assert (kept.status_code, kept.json()["code"]) == (409, "conflict")
        assert served.data("DELETE", "/sandboxes/box") == "Sandbox removed"
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/start"), ("POST", "/stop"), ("GET", "/network"), ("GET", "/ports")):
        response = served.http.request(method, f"/sandboxes/box{path}")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_lists_have_filters_and_a_cursor(served: Served) -> None:
    with made(served, labels={"set": "a"}, start=False) as first, made(served, labels={"set": "a", "n": "2"}, start=False) as second:
        ids = sorted([first["id"], second["id"]])

        def listed(**query: Any) -> list[str]:
            return [each["id"] for each in served.data("GET", "/sandboxes", params=query)]

        assert listed(label="set:a") == ids
        assert listed(label=["set=a", "n=2"]) == [second["id"]]
        assert listed(status="running", label="set:a") == []
        assert listed(status=["running", "stopped"], label="set:a") == ids
        page = served.http.get("/sandboxes", params={"label": "set:a", "limit": 1})
        assert [each["id"] for each in page.json()["data"]] == ids[:1]
        assert listed(label="set:a", after=page.headers["x-next-after"]) == ids[1:]
        assert "x-next-after" not in served.http.get("/sandboxes", params={"label": "set:a"}).headers
        for query in ({"label": "set"}, {"limit": 0}, {"limit": "many"}, {"status": "asleep"}):
            assert served.http.get("/sandboxes", params=query).status_code == 400


def test_labels_name_and_expiry_can_be_changed(served: Served) -> None:
    with made(served, name="old", start=False) as box:
        assert served.data("PATCH", "/sandboxes/old", json={"labels": {"a": "1"}, "name": "new"})["labels"] == {"a": "1"}
        assert served.data("GET", "/sandboxes/new")["id"] == box["id"]
        extended = served.data("POST", "/sandboxes/new/extend", json={"by": "1h"})
        assert 3500 < extended["expires_at"] - box["created_at"] < 3700 + 60
        assert served.data("POST", "/sandboxes/new/extend", json={"by": 60})["expires_at"] < extended["expires_at"]
        assert served.data("POST", "/sandboxes/new/extend", json={"by": None})["expires_at"] is None
        for by in ("soon", -1, True):
            assert served.http.post("/sandboxes/new/extend", json={"by": by}).status_code == 400


def test_stop_keeps_the_files_and_start_brings_them_back(served: Served) -> None:
    with made(served, name="kept"):
        served.data("PUT", "/sandboxes/kept/files/home/user/note", json={"content": "still here"})
        assert served.data("POST", "/sandboxes/kept/stop")["status"] == "stopped"
        assert served.data("POST", "/sandboxes/kept/stop")["status"] == "stopped"
        stopped = served.http.post("/sandboxes/kept/exec", json={"command": ["true"]})
        assert (stopped.status_code, stopped.json()["code"]) == (409, "conflict")
        assert served.data("POST", "/sandboxes/kept/start")["status"] == "running"
        assert served.data("POST", "/sandboxes/kept/start")["status"] == "running"
        assert served.data("POST", "/sandboxes/kept/exec", json={"command": ["cat", "/home/user/note"]})["output"] == "still here"


def test_a_name_that_is_another_s_by_now_means_that_other(served: Served) -> None:
    """Opened sandboxes are kept for the next request; by what they are, not by what they are called."""
    command = {"command": ["sh", "-c", "cat /tmp/who || echo new"]}
    with made(served, name="first"):
        served.data("PUT", "/sandboxes/first/files/tmp/who", json={"content": "old"})
        assert served.data("POST", "/sandboxes/first/exec", json=command)["stdout"] == "old"
        served.data("PATCH", "/sandboxes/first", json={"name": "second"})
        with made(served, name="first"):
            assert served.data("POST", "/sandboxes/first/exec", json=command)["stdout"] == "new\n"
            assert served.data("POST", "/sandboxes/second/exec", json=command)["stdout"] == "old"
        served.data("DELETE", "/sandboxes/second")


def test_a_creation_with_a_key_is_done_once(served: Served) -> None:
    body = {"labels": {"keyed": "yes"}, "start": False}
    answers = [served.http.post("/sandboxes", json=body, headers={"Idempotency-Key": "k1"}) for _ in range(2)]
    assert [each.status_code for each in answers] == [201, 201]
    assert answers[0].json()["data"]["id"] == answers[1].json()["data"]["id"]
    assert len(served.data("GET", "/sandboxes", params={"label": "keyed:yes"})) == 1
    served.data("DELETE", f"/sandboxes/{answers[0].json()['data']['id']}")


@pytest.mark.parametrize(
    "body", [{"name": "-x"}, {"name": "a/b"}, {"memory_mb": 0}, {"memory_mb": "512"}, {"labels": {"": "1"}}, {"ports": [0]}, {"vcpu": 1}]
)
def test_a_sandbox_that_cannot_be_is_refused(served: Served, body: object) -> None:
    response = served.http.post("/sandboxes", json=body)
    assert response.status_code == 400 and response.json()["error"]


def test_rules_of_the_network_are_changed_and_attempts_told(served: Served) -> None:
    with made(served, name="net", only_hosts=True, allow_hosts=["a.example"]):
        assert served.data("GET", "/sandboxes/net/network")["allow"] == ["a.example"]
        rules = served.data(
            "PATCH", "/sandboxes/net/network", json={"allow": ["B.example:8443"], "deny": ["c.example"], "remove": ["a.example"]}
        )
        assert (rules["allow"], rules["deny"]) == (["b.example:8443"], ["c.example"])
        assert served.http.patch("/sandboxes/net/network", json={"allow": ["a b"]}).status_code == 400
        fetch = "import urllib.request; urllib.request.urlopen('http://c.example/', timeout=20)"
        assert served.data("POST", "/sandboxes/net/exec", json={"command": ["python3", "-c", fetch]})["exit_code"] == 1
        log = served.data("GET", "/sandboxes/net/network/log", params={"verdict": "denied"})
        assert {each["host"] for each in log["attempts"]} == {"c.example"}
    with made(served, name="alone", network=False):
        response = served.http.get("/sandboxes/alone/network")
        assert (response.status_code, response.json()["code"]) == (422, "unsupported")


def test_a_port_inside_is_published(served: Served) -> None:
    with made(served, name="web"):
        published = served.data("POST", "/sandboxes/web/ports", json={"port": 8000})
        assert served.data("GET", "/sandboxes/web/ports") == [published]
        assert (published["port"], published["host_address"]) == (8000, "127.0.0.1")
        assert served.data("DELETE", "/sandboxes/web/ports/8000") == "Port unpublished"
        assert served.data("GET", "/sandboxes/web/ports") == []
        refused = served.http.post("/sandboxes/web/ports", json={"port": "0.0.0.0:8000:8000"})
        assert (refused.status_code, refused.json()["code"]) == (403, "refused")
        for port in (0, 65536, "web"):
            assert served.http.delete(f"/sandboxes/web/ports/{port}").status_code == 400


def test_the_engine_tells_of_itself(served: Served) -> None:
    backends = served.data("GET", "/backends")
    assert backends["default_backend"] == "namespaces"
    assert next(each for each in backends["backends"] if each["name"] == "namespaces")["features"]["exec"]["support"] == "native"
    assert {each["id"] for each in served.data("GET", "/agents")} >= {"claude", "codex", "gemini"}
    assert served.data("GET", "/status")["running"] is True
    assert served.data("GET", "/health") == "ok"
    assert isinstance(served.data("POST", "/gc", json={"dry_run": True}), list)


def test_images_are_listed_pulled_and_removed(served: Served) -> None:
    assert isinstance(served.data("GET", "/images"), list)
    failed = served.data("POST", "/images/pull", json={"image": "127.0.0.1:1/nothing:1"})
    assert (failed["stage"], failed["code"], failed["image"]) == ("failed", "image_failed", None)
    assert served.data("GET", f"/images/jobs/{failed['id']}")["stage"] == "failed"
    begun = served.data("POST", "/images/pull", json={"image": "127.0.0.1:1/nothing:2", "wait": False})
    assert served.data("GET", f"/images/jobs/{begun['id']}", params={"wait": True})["stage"] == "failed"
    assert served.http.post("/images/pull", json={"image": "no such name"}).status_code == 400
    assert served.http.get("/images/jobs/0000").status_code == 404
    assert served.http.delete("/images/ghcr.io/no/such:1").status_code == 404
    assert served.data("POST", "/images/prune", json={"unused_for_s": 1e9}) == []


def test_the_trail_is_told_page_by_page(served: Served) -> None:
    with made(served, name="trail", start=False) as box:
        served.data("PATCH", "/sandboxes/trail", json={"labels": {"a": "1"}})
        page = served.data("GET", "/audit", params={"sandbox": box["id"], "limit": 1})
        rest = served.data("GET", "/audit", params={"sandbox": box["id"], "after": page["next_after"]})
        kinds = [each["kind"] for each in page["events"] + rest["events"]]
        assert kinds[0] == "sandbox.created" and len(kinds) == 2 and rest["next_after"] is None
        assert served.data("GET", "/audit", params={"sandbox": box["id"], "kind": ["exec.", "sandbox.created"]})["events"] == page["events"]
