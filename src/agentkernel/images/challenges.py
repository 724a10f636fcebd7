"""What a registry wants to be told before it answers: the header WWW-Authenticate (RFC 9110, 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_HEADER_CHARACTERS = 16 * 1024
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'[ \t]*({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))[ \t]*')
_SCHEME = re.compile(rf"[ \t]*({_WORD})(?:[ \t]+|(?=,)|$)")
_COMMAS = re.compile(r"[ \t]*(?:,[ \t]*)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way to answer; `scheme` and the parameters' names are in small letters."""

    scheme: str
    parameters: Mapping[str, str]


def parse(header: str) -> tuple[Challenge, ...]:
    """The challenges of a header, as far as they can be read."""
    found: list[Challenge] = []
    place, text = 0, header[:MAX_HEADER_CHARACTERS]
    while place < len(text):
        if (comma := _COMMAS.match(text, place)) is not None and comma.end() > place:
            place = comma.end()
        elif (parameter := _PARAMETER.match(text, place)) is not None and found:
            quoted, plain = parameter[2], parameter[3]
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1] = Challenge(scheme=found[-1].scheme, parameters={**found[-1].parameters, parameter[1].lower(): value})
            place = parameter.end()
        elif (scheme := _SCHEME.match(text, place)) is not None:
            found.append(Challenge(scheme=scheme[1].lower(), parameters={}))
            place = scheme.end()
        else:
            break
    return tuple(found)
