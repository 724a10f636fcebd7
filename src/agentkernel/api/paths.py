"""The path of a request, decoded once: the gate bounds, the router finds and a route uses the very same text."""

from __future__ import annotations

import os
from urllib.parse import unquote_to_bytes

from starlette.types import Scope


def decoded_path(scope: Scope) -> str:
    """The path as text that stands for its bytes (`os.fsencode` gives these back): names of files need not be UTF-8.

    What servers put there themselves has U+FFFD in place of such bytes. `%2F` separates like any slash: who decodes only some of them
    gets a router and a route that see different places.
    """
    raw: bytes | None = scope.get("raw_path")
    return scope["path"] if raw is None else os.fsdecode(unquote_to_bytes(raw))
