"""Dataclasses of this package to JSON values and back, by their annotations; what does not fit its annotation is refused.

Bytes become text by UTF-8 with surrogateescape, which keeps every byte; IntEnums travel by their lower-case name with hyphens, StrEnums by
value; tuples and frozensets are lists; fields with their default value are left out.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
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
            name: to_json(item) for name, default in _defaults(cast(Any, type(value))).items() if (item := getattr(value, name)) != default
        }
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_json(kind: type[T], data: object) -> T:
    """The reverse; raises InvalidInput (UnknownKey for a field that does not exist) that names the place."""
    return cast(T, _read(kind, data, (getattr(kind, "__name__", str(kind)),)))


# Where a value stands: its own step and its parent's place. Text is made of it only when something is wrong.
_Place = tuple[Any, ...]


def _read(kind: Any, data: Any, where: _Place) -> Any:
    origin, arguments = _shape(kind)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, data, where)
    if origin in (tuple, list, frozenset, dict):
        return _read_container(arguments, origin, data, where)
    if is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    return _read_scalar(kind, data, where)


def _read_union(arguments: tuple[Any, ...], data: Any, where: _Place) -> Any:
    options = [option for option in arguments if option is not type(None)]
    if data is None and len(options) < len(arguments):
        return None
    for option in options[:-1]:
        try:
            return _read(option, data, where)
        except InvalidInput:
            continue
    return _read(options[-1], data, where)


def _read_container(arguments: tuple[Any, ...], origin: Any, data: Any, where: _Place) -> Any:
    if origin is dict:
        if not isinstance(data, dict):
            raise _wrong(where, "an object", data)
        return {_read(arguments[0], key, where): _read(arguments[1], item, (f".{key}", where)) for key, item in data.items()}
    if not isinstance(data, list):
        raise _wrong(where, "a list", data)
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(data) != len(arguments):
            raise _wrong(where, f"{len(arguments)} items", data)
        return tuple(_read(each, item, where) for each, item in zip(arguments, data, strict=True))
    return origin(_read(arguments[0], item, (f"[{at}]", where)) for at, item in enumerate(data))


def _read_dataclass(kind: Any, data: Any, where: _Place) -> Any:
    if not isinstance(data, dict):
        raise _wrong(where, "an object", data)
    layout = _layout(kind)
    unknown = data.keys() - layout.kinds.keys()
    if unknown:
        raise UnknownKey(f"{_text(where)} has no field {sorted(unknown)[0]!r}", hint=f"its fields: {', '.join(layout.kinds)}")
    for name in layout.required:
        if name not in data:
            raise InvalidInput(f"{_text(where)} lacks the field {name!r}")
    return kind(**{name: _read(layout.kinds[name], item, (f".{name}", where)) for name, item in data.items()})


def _read_scalar(kind: Any, data: Any, where: _Place) -> Any:
    if kind is bool or kind is str or kind is int:
        if type(data) is kind:
            return data
    elif kind is bytes and isinstance(data, str):
        return _read_bytes(data, where)
    elif kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return _read_float(data, where)
    elif kind in (object, Any):
        return data
    elif isinstance(kind, type) and issubclass(kind, Enum):
        for member in kind:
            if _label(member) == data:
                return member
        raise _wrong(where, f"one of {', '.join(str(_label(member)) for member in kind)}", data)
    raise _wrong(where, getattr(kind, "__name__", str(kind)), data)


def _read_bytes(data: str, where: _Place) -> bytes:
    try:
        return data.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:  # a half of a surrogate pair that stands for no byte
        raise _wrong(where, "bytes as text", data) from error


def _read_float(data: float, where: _Place) -> float:
    """Python's JSON also reads NaN and infinities, which no time or number of the model is."""
    try:
        value = float(data)
    except OverflowError as error:
        raise _wrong(where, "a number that a float can hold", data) from error
    if not math.isfinite(value):
        raise _wrong(where, "a finite number", data)
    return value


def _label(member: Enum) -> Any:
    return member.name.lower().replace("_", "-") if isinstance(member, IntEnum) else member.value


def _wrong(where: _Place, wanted: str, data: object) -> InvalidInput:
    shown = repr(data) if not isinstance(data, int) or abs(data) < 10**50 else "a number with very many digits"
    return InvalidInput(f"{_text(where)} must be {wanted}, not {shown if len(shown) < 60 else type(data).__name__}")


def _text(where: _Place) -> str:
    return (_text(where[1]) if len(where) > 1 else "") + str(where[0])


@dataclass(frozen=True, slots=True)
class _Layout:
    """What `_read_dataclass` wants to know of a class."""

    kinds: Mapping[str, Any]
    required: tuple[str, ...]


@cache
def _layout(kind: type) -> _Layout:
    hints, defaults = get_type_hints(kind), _defaults(kind)
    return _Layout(
        kinds={name: hints[name] for name in defaults},
        required=tuple(name for name, default in defaults.items() if default is MISSING),
    )


@cache
def _shape(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(kind), get_args(kind)


@cache
def _defaults(kind: type) -> dict[str, Any]:
    """The fields that JSON holds and what each is when it is left out (MISSING: it may not be)."""
    return {
        each.name: each.default_factory() if each.default_factory is not MISSING else each.default
        for each in fields(cast(Any, kind))
        if each.init
    }
