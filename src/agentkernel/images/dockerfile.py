"""Which images a Dockerfile begins with: as much of its language as that takes. Untrusted text; what is not understood is passed over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from agentkernel.errors import InvalidInput
from agentkernel.images.reference import canonical

MAX_BASES: Final = 100
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]{0,200})(?::-([^}]{0,500}))?\}|([A-Za-z_][A-Za-z0-9_]{0,200}))")
_FROM_FLAG: Final = "--from="


def bases(text: str, arguments: Mapping[str, str]) -> tuple[str, ...]:
    """Canonical references of the images that FROM and COPY --from name, in their order, without the file's own stages."""
    values: dict[str, str] = {}
    stages: set[str] = set()
    found: dict[str, None] = {}
    for words in _instructions(text):
        match words[0].upper(), words[1:]:
            case "ARG", [argument, *_] if not stages:
                name, _, default = argument.partition("=")
                values[name] = arguments.get(name, default.strip("\"'"))
            case "FROM", rest:
                plain = [word for word in rest if not word.startswith("--")]
                if plain:
                    _note(_filled(plain[0], values), stages, found)
                stages.add(plain[2].lower() if len(plain) >= 3 and plain[1].lower() == "as" else f"\0{len(stages)}")
            case (("COPY" | "ADD"), rest):
                for word in rest:
                    if word.startswith(_FROM_FLAG):
                        _note(_filled(word.removeprefix(_FROM_FLAG), values), stages, found)
            case _:
                continue
    return tuple(found)[:MAX_BASES]


def _note(name: str, stages: set[str], found: dict[str, None]) -> None:
    if name.lower() in stages or name.isdecimal() or name.lower() == "scratch":
        return
    try:
        found[canonical(name)] = None
    except InvalidInput:
        return  # the builder says what is wrong with it


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: values.get(found[1] or found[3], "") or found[2] or "", text)


def _instructions(text: str) -> list[list[str]]:
    """Lines joined where they go on, as words; comments are none of them."""
    joined: list[list[str]] = []
    goes_on = False
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#") or not stripped:
            continue
        words = stripped.removesuffix("\\").split()
        if goes_on and joined:
            joined[-1] += words
        elif words:
            joined.append(words)
        goes_on = stripped.endswith("\\")
    return [words for words in joined if words]
