"""The description of the API, OpenAPI 3.1: what the routes declare, and what holds for all of them."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from agentkernel.api.examples import EXAMPLES
from agentkernel.api.idempotency import KEYED
from agentkernel.api.shapes_answers import Problem
from agentkernel.api.status import INTERNAL

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
TOKEN: Final = "token"  # noqa: S105 - what it is called in the description
PUBLIC: Final = frozenset({"health"})
DESCRIPTION: Final = """Sandboxes for the commands of AI agents. Every answer is `{"success": true, "data": ...}` or
`{"success": false, "error": ..., "code": ..., "hint": ...}`; a command that fails is an answer with its exit code, not an error.
Times are Unix seconds, sizes are bytes or, where a name says so, MiB."""
_PROBLEMS: Final[dict[int, dict[str, str]]] = {
    400: {"error": "the body has no field 'comand'", "code": "unknown_key", "hint": "did you mean 'command'?"},
    401: {"error": "a token is needed", "code": "unauthorized", "hint": "Authorization: Bearer TOKEN"},
    403: {"error": "ann may not do this: create", "code": "refused", "hint": "its scopes: read-only"},
    404: {"error": "there is no sandbox 'box'", "code": "not_found", "hint": "`agentkernel list` shows them"},
    409: {"error": "the sandbox 'box' is stopped", "code": "conflict", "hint": "run `agentkernel start box`"},
    413: {"error": "the body is longer than 1 MiB", "code": "body_too_large"},
    422: {"error": "backend 'namespaces' cannot provide gpus", "code": "unsupported", "hint": "run `agentkernel doctor`"},
    429: {"error": "too much at once", "code": "busy", "hint": "try again when some have ended"},
    500: {"error": "agentkernel itself failed (fault 9f86d081)", "code": "error", "hint": "the server's log says more about that fault"},
    502: {"error": "the sandbox died", "code": "sandbox_lost", "hint": "start it again"},
    503: {"error": "no daemon answers", "code": "daemon_unavailable", "hint": "see daemon.log"},
    507: {"error": "write '/workspace/big' in the sandbox: No space left on device", "code": "file_operation"},
}
_HEADERS: Final[dict[int, dict[str, Any]]] = {
    401: {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
}
_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "1 to 255 visible ASCII characters. A request that is repeated with its key is done once; for ten minutes.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_PARAMETERS: Final[dict[str, str]] = {
    "name": "A sandbox, by name or id.",
    "path": "An absolute path inside, without its first slash.",
    "exec_id": "A command's id, 16 hexadecimal digits.",
    "reference": "An image's name.",
    "job_id": "The id of the work.",
}
_EVENT: Final[dict[str, Any]] = {  # of a stream: what each of its events is
    "type": "object",
    "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": {"type": "string", "description": "JSON."}},
    "required": ["data"],
}
_CURSOR: Final[dict[str, Any]] = {
    "X-Next-After": {"description": "The cursor of the next page, where there may be one.", "required": False, "schema": {"type": "string"}}
}


class Application(FastAPI):
    """Describes itself so."""

    def openapi(self) -> dict[str, Any]:
        """See `describe`."""
        return describe(self)


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole description, made once for each application."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
        components = found.setdefault("components", {})
        components["securitySchemes"] = {
            TOKEN: {"type": "http", "scheme": "bearer", "description": "`agentkernel config token` prints one."}
        }
        components["responses"] = {f"Problem{status}": _problem(status) for status in _PROBLEMS}
        schemas = components.setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        found["security"] = [{TOKEN: []}]
        for path, operations in found["paths"].items():
            for operation in operations.values():
                _complete(path, operation)
        app.openapi_schema = found
    return app.openapi_schema


def _complete(path: str, operation: dict[str, Any]) -> None:
    """What holds for every operation: errors, who may, what the path names; and its example."""
    ident = operation["operationId"]
    responses = operation["responses"]
    responses.pop("422", None)  # the framework's own, which no request gets
    for status in _statuses(path, operation):
        responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    if ident in PUBLIC:
        operation["security"] = []
    parameters = operation.setdefault("parameters", [])
    declared = {(each["in"], each["name"]): each for each in parameters}
    for name in re.findall(r"\{(\w+)\}", path):
        if ("path", name) not in declared:
            declared["path", name] = {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            parameters.append(declared["path", name])
        declared["path", name].setdefault("description", _PARAMETERS.get(name, ""))
    if ident in KEYED:
        parameters.append(_KEY)
    for response in responses.values():
        if EVENTS in response.get("content", {}):
            response["content"][EVENTS]["schema"] = _EVENT
    if ident == "sandbox_list":
        responses["200"]["headers"] = _CURSOR
    _exemplify(operation)


def _statuses(path: str, operation: dict[str, Any]) -> list[int]:
    """The errors that an operation may answer with."""
    if operation["operationId"] in PUBLIC:
        return [429, INTERNAL]
    statuses = [400, 401, 403, 404, 409, 422, 429, INTERNAL, 502, 503]
    if "requestBody" in operation or "{path}" in path:
        statuses += [413]
    return [*statuses, 507] if "{path}" in path or path.endswith(("/files", "/mkdir", "/move")) else statuses


def _exemplify(operation: dict[str, Any]) -> None:
    example = EXAMPLES.get(operation["operationId"])
    if example is None:
        return
    if example.sent is not None:
        operation["requestBody"]["content"][JSON]["example"] = example.sent
    if example.answered is not None:
        answered = next(each for status, each in operation["responses"].items() if status.startswith("2"))
        answered["content"][JSON]["example"] = {"success": True, "data": example.answered}


def _problem(status: int) -> dict[str, Any]:
    said = {"success": False, **_PROBLEMS[status]}
    found: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": said}},
    }
    return found | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
