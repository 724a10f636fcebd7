"""Dataclasses of this package to JSON values and back, by their annotations; what does not fit its annotation is refused.

Bytes become text by UTF-8 with surrogateescape, which keeps every byte; IntEnums travel by their lower-case name with hyphens, StrEnums by
value; tuples and frozensets are lists; fields with their default value are left out.
"""

from __future__ import annotations

import types
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum, IntEnum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from agentkernel.errors import InvalidInput, UnknownKey

T = TypeVar("T")


def to_json(value: object) -> Any:
    """A value of the model as what `json.dumps` takes."""
    if isinstance(value, Enum):
        return _label(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list | tuple | frozenset):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {to_json(key): to_json(item) for key, item in value.items()}
    if is_dataclass(value):
        return {
            each.name: to_json(getattr(value, each.name))
            for each in fields(value)
            if each.init and getattr(value, each.name) != _default(type(value), each.name)
        }
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_json(kind: type[T], data: object) -> T:
    """The reverse; raises InvalidInput (UnknownKey for a field that does not exist) that names the place."""
    return cast(T, _read(kind, data, kind.__name__))


def _read(kind: Any, data: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(kind, data, where)
    if origin in (tuple, list, frozenset, dict):
        return _read_container(kind, origin, data, where)
    if is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    return _read_scalar(kind, data, where)


def _read_union(kind: Any, data: Any, where: str) -> Any:
    options = [option for option in get_args(kind) if option is not type(None)]
    if data is None and len(options) < len(get_args(kind)):
        return None
    for option in options[:-1]:
        try:
            return _read(option, data, where)
        except InvalidInput:
            continue
    return _read(options[-1], data, where)


def _read_container(kind: Any, origin: Any, data: Any, where: str) -> Any:
    arguments = get_args(kind)
    if origin is dict:
        if not isinstance(data, dict):
            raise _wrong(where, "an object", data)
        return {_read(arguments[0], key, where): _read(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    if not isinstance(data, list):
        raise _wrong(where, "a list", data)
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(data) != len(arguments):
            raise _wrong(where, f"{len(arguments)} items", data)
        return tuple(_read(each, item, where) for each, item in zip(arguments, data, strict=True))
    return origin(_read(arguments[0], item, f"{where}[{at}]") for at, item in enumerate(data))


def _read_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise _wrong(where, "an object", data)
    hints = _hints(kind)
    unknown = data.keys() - {each.name for each in fields(kind) if each.init}
    if unknown:
        raise UnknownKey(f"{where} has no field {sorted(unknown)[0]!r}", hint=f"its fields: {', '.join(hints)}")
    missing = [each.name for each in fields(kind) if each.init and each.name not in data and _default(kind, each.name) is MISSING]
    if missing:
        raise InvalidInput(f"{where} lacks the field {missing[0]!r}")
    return kind(**{name: _read(hints[name], item, f"{where}.{name}") for name, item in data.items()})


def _read_scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is bytes and isinstance(data, str):
        return data.encode("utf-8", "surrogateescape")
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    if kind is bool or kind is str or kind is int:
        if type(data) is kind:
            return data
    elif kind in (object, Any):
        return data
    elif isinstance(kind, type) and issubclass(kind, Enum):
        for member in kind:
            if _label(member) == data:
                return member
        raise _wrong(where, f"one of {', '.join(str(_label(member)) for member in kind)}", data)
    raise _wrong(where, getattr(kind, "__name__", str(kind)), data)


def _label(member: Enum) -> Any:
    return member.name.lower().replace("_", "-") if isinstance(member, IntEnum) else member.value


def _wrong(where: str, wanted: str, data: object) -> InvalidInput:
    shown = repr(data)
    return InvalidInput(f"{where} must be {wanted}, not {shown if len(shown) < 60 else type(data).__name__}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _defaults(kind: type) -> dict[str, Any]:
    return {each.name: each.default_factory() if each.default_factory is not MISSING else each.default for each in fields(cast(Any, kind))}


def _default(kind: type, name: str) -> Any:
    return _defaults(kind)[name]
