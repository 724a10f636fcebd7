"""Hypothesis strategies for the model's dataclasses, by their annotations, so that a new field is tested the day it appears."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    # Paths and arguments that are not UTF-8 are text with half surrogate pairs.
    str: TEXT | st.binary(max_size=8).map(lambda data: data.decode("utf-8", "surrogateescape")),
    bytes: st.binary(max_size=16),
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
}


def values_of(kind: Any, /, **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of an annotation; `given` has strategies for fields of a dataclass that need their own."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values_of, arguments))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return st.tuples(*map(values_of, arguments))
    if origin in (tuple, list, frozenset):
        return st.lists(values_of(arguments[0]), max_size=3).map(origin)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=3)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        taken = [each.name for each in fields(kind) if each.init]
        return st.builds(kind, **{name: given[name] if name in given else values_of(hints[name]) for name in taken})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    return st.none() if kind is type(None) else SCALARS[kind]
