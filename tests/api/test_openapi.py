"""The description of the API is complete and true: by its own examples, and by what a generator of requests makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from api.stream_world import DEADLINE_S, Served, served
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, checks
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from agentkernel.abc import Caller
from agentkernel.api.app import build
from agentkernel.api.examples import EXAMPLES
from agentkernel.api.parts import Parts

__all__ = ["served"]

EXAMPLES_EACH = 6
ENDLESS = {"events_stream", "file_watch"}  # end with their client
ELSEWHERE = {"image_pull"}  # asks registries
ENDING = {"sandbox_remove", "sandbox_stop", "sandbox_patch"}  # of the sandbox that the others need
JSON = "application/json"
CHECKS = [
    checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@schemathesis.serializer("application/x-tar")
def _as_it_is(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _refuse(_: Caller) -> Any:
    raise AssertionError("nobody is to ask")


def _description() -> dict[str, Any]:
    return build(Parts(doors=_refuse, caller=Caller(principal="ann"), version="1", environment={})).openapi()


DESCRIPTION = _description()
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, operations in DESCRIPTION["paths"].items()
    for method, operation in operations.items()
}


def _can_be_wrong(operation: dict[str, Any]) -> bool:
    """Whether there is anything to a request that its description could be against: any text is a path, any bytes are a body."""
    return JSON in operation.get("requestBody", {}).get("content", {}) or any(each["in"] != "path" for each in operation["parameters"])


CASES = [
    pytest.param(mode, ident, id=f"{ident}-{name}")
    for ident, (_, _, operation) in OPERATIONS.items()
    for mode, name in ((GenerationMode.POSITIVE, "as described"), (GenerationMode.NEGATIVE, "otherwise"))
    if ident not in ENDLESS | ELSEWHERE and (mode is GenerationMode.POSITIVE or _can_be_wrong(operation))
]


def _validate(schema: dict[str, Any], value: Any) -> None:
    jsonschema_rs.validator_for({**schema, "components": DESCRIPTION["components"]}).validate(value)


def test_every_operation_has_an_id_of_its_own_and_words_about_it() -> None:
    assert DESCRIPTION["openapi"].startswith("3.1")
    assert len(OPERATIONS) == sum(len(operations) for operations in DESCRIPTION["paths"].values())
    for ident, (_, _, operation) in OPERATIONS.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", ident), ident
        assert operation["summary"] and operation["description"] and operation["tags"], ident


def test_no_example_is_left_over() -> None:
    assert EXAMPLES.keys() <= OPERATIONS.keys()


@pytest.mark.parametrize("ident", OPERATIONS)
def test_an_operation_shows_by_example_what_is_sent_and_answered(ident: str) -> None:
    _, path, operation = OPERATIONS[ident]
    for content in (operation.get("requestBody", {}).get("content", {}).get(JSON), _answered(operation).get("content", {}).get(JSON)):
        if content is not None:
            assert content["schema"], ident
            _validate(content["schema"], content["example"])
    names = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
    assert names == set(re.findall(r"\{(\w+)\}", path))
    assert all(each["description"] for each in operation["parameters"] if each["in"] == "path")


@pytest.mark.parametrize("ident", OPERATIONS)
def test_every_error_is_described_with_the_envelope_and_an_example(ident: str) -> None:
    _, _, operation = OPERATIONS[ident]
    errors = {status: each for status, each in operation["responses"].items() if status >= "400"}
    assert "500" in errors and "429" in errors
    for status, response in errors.items():
        described = DESCRIPTION["components"]["responses"][response["$ref"].rpartition("/")[2]]
        content = described["content"][JSON]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}, status
        _validate(content["schema"], content["example"])


def test_a_token_is_needed_for_all_but_health() -> None:
    assert DESCRIPTION["security"] == [{"token": []}]
    assert [ident for ident, (_, _, operation) in OPERATIONS.items() if operation.get("security") == []] == ["health"]


def _answered(operation: dict[str, Any]) -> dict[str, Any]:
    return next(each for status, each in operation["responses"].items() if status < "300")


@pytest.fixture(scope="module")
def api(served: Served) -> Iterator[Any]:
    """The description for a generator, and a sandbox `box` to work on. This server wants no token, so none that is missing is refused."""
    served.create("box")
    schema = schemathesis.openapi.from_dict({**DESCRIPTION, "security": []})
    schema.config.update(base_url=served.url)
    yield schema
    served.remove("box")


@pytest.mark.parametrize("served", ["engine"], indirect=True)
def test_the_server_describes_itself(served: Served) -> None:
    found = served.http.get("/openapi.json").json()
    assert found["paths"] == DESCRIPTION["paths"]


@pytest.mark.parametrize("served", ["engine"], indirect=True)
@pytest.mark.parametrize(("mode", "ident"), CASES)
def test_what_is_answered_is_as_described(served: Served, api: Any, ident: str, mode: GenerationMode) -> None:
    """Requests that a generator makes of the description: none breaks the server, and every answer is one that it tells of."""
    method, path, _ = OPERATIONS[ident]
    wanted = [*CHECKS, negative_data_rejection] if mode is GenerationMode.NEGATIVE else CHECKS
    known = {"name": "box"} if "{name}" in path and ident not in ENDING else None

    @seed(20)
    @settings(
        max_examples=EXAMPLES_EACH,
        derandomize=False,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[phase for phase in settings.default.phases if phase.name in ("explicit", "generate")],
    )
    @given(case=api[path][method.upper()].as_strategy(generation_mode=mode, path_parameters=known))
    def ask(case: Case) -> None:
        if isinstance(case.body, dict) and "image" in case.body:
            case.body["pull"] = "never"  # no registry is asked for names that a generator made up
        case.call_and_validate(checks=wanted, timeout=DEADLINE_S)

    if mode is GenerationMode.POSITIVE:
        return ask()
    with suppress(Unsatisfiable):  # whatever is sent there, it is as described
        ask()
