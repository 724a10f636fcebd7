"""What the model's dataclasses look like as JSON, and that nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.model_strategies import values_of

from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.model import command, inspection, isolation, record, request, spec
from agentkernel.model.codec import from_json, to_json
from agentkernel.model.command import Command
from agentkernel.model.isolation import Fingerprint, IsolationLevel
from agentkernel.model.operation import OPERATIONS
from agentkernel.model.record import CreateOptions, SandboxFilter
from agentkernel.model.spec import Bind, RootFile, SandboxSpec
from agentkernel.model.status import Status

MODULES = (command, inspection, isolation, record, request, spec)
KINDS = sorted(
    {kind for module in MODULES for kind in vars(module).values() if isinstance(kind, type) and is_dataclass(kind)},
    key=lambda kind: kind.__name__,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def round_trips(kind: Any, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(values_of(kind))
    def round_trip(value: object) -> None:
        assert from_json(kind, json.loads(json.dumps(to_json(value)))) == value

    round_trip()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_value_of_the_model_comes_back_as_it_went(kind: type) -> None:
    round_trips(kind, 30)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_speak_in_types_that_have_a_json_form(name: str) -> None:
    operation = OPERATIONS[name]
    for kind in (*operation.parameters.values(), operation.result):
        if kind is not None:
            round_trips(kind, 5)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), JSON)
def test_any_json_is_a_value_or_invalid_input(kind: type, data: object) -> None:
    try:
        value = from_json(kind, data)
    except InvalidInput:
        return
    assert isinstance(value, kind)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_one_field_of_any_json_is_a_value_or_invalid_input(kind: type, data: st.DataObject) -> None:
    plain = to_json(data.draw(values_of(kind)))
    names = sorted(each.name for each in kind.__dataclass_fields__.values())  # type: ignore[attr-defined]
    plain[data.draw(st.sampled_from(names))] = data.draw(JSON)
    try:
        assert isinstance(from_json(kind, plain), kind)
    except InvalidInput:
        return


def test_fields_with_their_default_are_left_out() -> None:
    assert to_json(Bind(source="/a", target="/b")) == {"source": "/a", "target": "/b"}
    assert to_json(CreateOptions()) == {}


def test_bytes_that_are_no_text_are_kept() -> None:
    assert to_json(Command(argv=(b"caf\xe9",))) == {"argv": ["caf\udce9"]}
    assert from_json(RootFile, {"path": "/a", "content": "\udcff"}).content == b"\xff"


def test_levels_travel_by_their_label_and_keys_of_features_by_their_value() -> None:
    assert to_json(IsolationLevel.VM_EMULATED) == "vm-emulated"
    found = from_json(
        Fingerprint, {"backend": "b", "ready": True, "level": "user-kernel", "features": {"host-root": {"support": "native"}}}
    )
    assert found.level is IsolationLevel.USER_KERNEL
    assert list(to_json(found)["features"]) == ["host-root"]


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (SandboxSpec, {"name": "a"}, "SandboxSpec lacks the field 'root'"),
        (SandboxSpec, [], "SandboxSpec must be an object"),
        (CreateOptions, {"ttl_s": "3"}, "CreateOptions.ttl_s must be float, not '3'"),
        (CreateOptions, {"ttl_s": float("nan")}, "CreateOptions.ttl_s must be a finite number"),
        (CreateOptions, {"ttl_s": float("inf")}, "CreateOptions.ttl_s must be a finite number"),
        (CreateOptions, {"ttl_s": 10**400}, "CreateOptions.ttl_s must be a number that a float can hold"),
        (CreateOptions, {"ttl_s": True}, "CreateOptions.ttl_s must be float"),
        (CreateOptions, {"labels": [["a"]]}, "CreateOptions.labels[0] must be 2 items"),
        (CreateOptions, {"labels": [["a", 1]]}, "CreateOptions.labels[0] must be str, not 1"),
        (SandboxFilter, {"limit": True}, "SandboxFilter.limit must be int"),
        (SandboxFilter, {"statuses": ["asleep"]}, "SandboxFilter.statuses[0] must be one of creating"),
        (Command, {"argv": ["\ud800"]}, "Command.argv[0] must be bytes as text"),
        (Command, {"argv": "ls"}, "Command.argv must be a list"),
        (Command, {"argv": [], "environment": {"A": 1}}, "Command.environment.A must be bytes, not 1"),
        (Status, "asleep", "Status must be one of"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_place_named(kind: type, data: object, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_json(kind, data)
    assert said in caught.value.message


def test_a_field_that_does_not_exist_is_refused_and_the_fields_named() -> None:
    with pytest.raises(UnknownKey) as caught:
        from_json(Bind, {"source": "/a", "target": "/b", "writeable": True})
    assert "Bind has no field 'writeable'" in caught.value.message
    assert "writable" in caught.value.hint


def test_what_has_no_json_form_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError):
        to_json({object()})
