"""Numbers for Prometheus: what this server was asked, and how long it took. Names as dashboards of earlier versions know them."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_NO_ROUTE: Final = "none"
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "WEBSOCKET"})
# Which routes begin or end a sandbox, and which run a command.
_LIFE: Final = {
    ("POST", "/sandboxes"): "create",
    ("POST", "/sandboxes/{name}/start"): "start",
    ("POST", "/sandboxes/{name}/stop"): "stop",
    ("DELETE", "/sandboxes/{name}"): "remove",
}
_COMMANDS: Final = {
    ("POST", "/run"): "run",
    ("POST", "/run/stream"): "run",
    ("POST", "/batch/run"): "batch",
    ("POST", "/sandboxes/{name}/exec"): "exec",
    ("POST", "/sandboxes/{name}/exec/stream"): "exec",
    ("POST", "/sandboxes/{name}/exec/detach"): "detach",
    ("WEBSOCKET", "/sandboxes/{name}/exec/ws"): "exec",
    ("WEBSOCKET", "/sandboxes/{name}/terminal"): "terminal",
}


class Metrics:
    """The numbers of one server. Labels are routes as declared, methods, statuses: nothing that a client could make up."""

    def __init__(self, version: str) -> None:
        registry = self._registry = CollectorRegistry()
        route = ("method", "route")
        self._requests = Counter("agentkernel_http_requests", "Requests answered", (*route, "status"), registry=registry)
        self._seconds = Histogram("agentkernel_http_request_duration_seconds", "Time to answer", route, registry=registry, buckets=_BUCKETS)
        life = ("operation", "result")
        self._life = Counter("agentkernel_sandbox_lifecycle", "Sandboxes made, started, stopped, removed", life, registry=registry)
        self._life_seconds = Histogram(
            "agentkernel_sandbox_lifecycle_duration_seconds", "Time that it took", ("operation",), registry=registry, buckets=_BUCKETS
        )
        self._active = Gauge("agentkernel_sandboxes_active", "Sandboxes that run", registry=registry)
        self._commands = Counter(
            "agentkernel_commands", "Commands run, whatever their exit code", ("operation", "result"), registry=registry
        )
        self._command_seconds = Histogram(
            "agentkernel_command_duration_seconds", "Time that they took", ("operation",), registry=registry, buckets=_BUCKETS
        )
        Gauge("agentkernel_build_info", "The version", ("version",), registry=registry).labels(version).set(1)
        Gauge("agentkernel_start_time_seconds", "When the server started", registry=registry).set(time.time())

    def request(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts one request; `status` 0: the client left before it was answered."""
        route = getattr(scope.get("route"), "path", _NO_ROUTE)
        method = scope.get("method", "WEBSOCKET")
        if route == _NO_ROUTE or method not in _METHODS:
            method = _NO_ROUTE  # a client may send any word
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        result = "ok" if 0 < status < 400 else "error"
        if (operation := _LIFE.get((method, route))) is not None:
            self._life.labels(operation, result).inc()
            self._life_seconds.labels(operation).observe(seconds)
        elif (operation := _COMMANDS.get((method, route))) is not None:
            self._commands.labels(operation, result).inc()
            self._command_seconds.labels(operation).observe(seconds)

    def text(self, sandboxes_running: int) -> bytes:
        """All of it, as Prometheus reads it."""
        self._active.set(sandboxes_running)
        return generate_latest(self._registry)
