"""Numbers for Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from api.asking import HOST, JSON, Silent, ask, bearer, parts_with
from prometheus_client.parser import text_string_to_metric_families

from agentkernel.abc import Caller
from agentkernel.api.app import build
from agentkernel.api.metrics import Metrics
from agentkernel.config.tokens import TokenStore
from agentkernel.errors import NotFound


class Counted(Silent):
    """A kernel with three sandboxes that run, none of which it finds."""

    async def status(self, caller: Caller) -> Any:
        return type("Status", (), {"running": 3})()

    async def stop(self, caller: Caller, name: str) -> Any:
        raise NotFound(f"there is no sandbox {name!r}")


@pytest.fixture
def app() -> Any:
    return build(parts_with(lambda caller: Counted()))


def read(text: bytes) -> dict[tuple[str, ...], float]:
    """Samples by name and labels."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[(sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))] = sample.value
    return found


async def test_requests_sandboxes_and_the_version_are_told(app: Any) -> None:
    await ask(app, "GET", "/health", [HOST])
    await ask(app, "POST", "/sandboxes/box/stop", [HOST, JSON])
    said = await ask(app, "GET", "/metrics", [HOST])
    assert said.headers["content-type"].startswith("text/plain; version=0.0.4")
    numbers = read(said.body)
    assert numbers["agentkernel_sandboxes_active",] == 3
    assert numbers["agentkernel_build_info", "version=1.2.3"] == 1
    assert numbers["agentkernel_http_requests_total", "method=GET", "route=/health", "status=200"] == 1
    stop = ("method=POST", "route=/sandboxes/{name}/stop")
    assert numbers["agentkernel_http_requests_total", *stop, "status=404"] == 1
    assert numbers["agentkernel_http_request_duration_seconds_count", *stop] == 1
    assert numbers["agentkernel_sandbox_lifecycle_total", "operation=stop", "result=error"] == 1
    assert numbers["agentkernel_sandbox_lifecycle_duration_seconds_count", "operation=stop"] == 1


async def test_nothing_that_clients_make_up_becomes_a_label(app: Any) -> None:
    for path in ("/made/up", "/sandboxes/made-up/stop", "/sandboxes/other/stop"):
        for method in ("GET", "POST", "MADEUP"):
            await ask(app, method, path, [HOST, JSON])
    text = (await ask(app, "GET", "/metrics", [HOST])).body.decode()
    for word in ("MADEUP", "made-up", "/made", "other"):
        assert word not in text


async def test_who_may_not_look_gets_no_numbers(tmp_path: Path) -> None:
    store = TokenStore({"AGENTKERNEL_HOME": str(tmp_path)})
    app = build(parts_with(lambda caller: Counted(), tokens=store))
    assert (await ask(app, "GET", "/metrics", [HOST])).status == 401
    assert (await ask(app, "GET", "/metrics", [HOST, bearer(store.create("m", ["read-only"]))])).status == 200


@pytest.mark.parametrize(
    ("method", "route", "operation"),
    [("POST", "/run", "run"), ("POST", "/batch/run", "batch"), ("WEBSOCKET", "/sandboxes/{name}/terminal", "terminal")],
)
def test_commands_are_counted_by_how_they_came(method: str, route: str, operation: str) -> None:
    metrics = Metrics("1")
    metrics.request({"method": method, "route": type("Route", (), {"path": route})()}, 200, 0.01)
    assert read(metrics.text(0))["agentkernel_commands_total", f"operation={operation}", "result=ok"] == 1
