"""What a client of the daemon may say before HELLO: for whom it speaks. It narrows what the connection may do, never widens it. Pure."""

from __future__ import annotations

import json
import re
import struct
from typing import Any, Final

from agentkernel.abc import Caller
from agentkernel.errors import InvalidInput, ProtocolViolation

MAGIC: Final = b"AKSCOPE1"
HEAD: Final = struct.Struct("<8sI")  # magic, length of the JSON behind it
MAX_BYTES: Final = 65_536  # of the JSON
MAX_SCOPES: Final = 64
MAX_VIA: Final = 255  # characters
MAX_PATIENCE_S: Final = 60.0

_SCOPE = r"full|admin|host|run-only|read-only|sandbox:[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
_OF_FULL: Final = frozenset({"full", "host", "run-only", "read-only"})
_SANDBOX: Final = "sandbox:"
_KEYS: Final = {"scopes", "via", "remote"}
_PATIENCE: Final = "patience_s"
_VOUCHED: Final = "vouched"


def encode_preface(caller: Caller, patience_s: float = 0.0) -> bytes:
    """What makes a connection the caller's; nothing for one that may do all that its user may. Raises InvalidInput for no caller.

    For so long after the connection was lost its commands go on, so that another one can take them up.
    """
    if caller == Caller(principal=caller.principal) and not patience_s:
        return b""
    said: dict[str, object] = {"scopes": sorted(caller.scopes), "via": caller.via, "remote": caller.remote}
    said |= {_VOUCHED: True} if caller.vouched else {}
    text = json.dumps(said | ({_PATIENCE: patience_s} if patience_s else {})).encode()
    try:
        read_preface(caller, text)
    except ProtocolViolation as error:
        raise InvalidInput(error.message) from error
    return HEAD.pack(MAGIC, len(text)) + text


def length_of(head: bytes | bytearray | memoryview) -> int:
    """How many bytes follow the first `HEAD.size` ones; raises ProtocolViolation."""
    length = int(HEAD.unpack(head)[1])
    if length > MAX_BYTES:
        raise ProtocolViolation(f"a preface of {length} bytes is longer than {MAX_BYTES}")
    return length


def read_preface(caller: Caller, text: bytes | bytearray) -> tuple[Caller, float]:
    """The connection's caller as the preface wants it, and how long it may be away.

    The principal is the connection's. Of the scopes stay those that the connection has (`full` holds all but `admin`); where none is left
    it may do nothing. `remote` is only ever turned on. `vouched` is for who makes the requests itself: whoever passes on what others have
    made leaves it out.

    Raises:
        ProtocolViolation: it is no preface.
    """
    said = _parsed(text)
    scopes, via, remote = said["scopes"], said["via"], said["remote"]
    if not isinstance(scopes, list) or len(scopes) > MAX_SCOPES or not all(isinstance(each, str) for each in scopes):
        raise ProtocolViolation(f"a preface has a list of at most {MAX_SCOPES} scopes")
    for scope in scopes:
        if re.fullmatch(_SCOPE, scope) is None:
            raise ProtocolViolation(f"there is no scope {scope[:80]!r}")
    if not isinstance(via, str) or len(via) > MAX_VIA or not via.isprintable():
        raise ProtocolViolation(f"the name of a token has at most {MAX_VIA} printable characters")
    if not isinstance(remote, bool):
        raise ProtocolViolation("`remote` is true or false")
    kept = frozenset(scope for scope in scopes if _holds(caller.scopes, scope))
    vouched = said.get(_VOUCHED, False)
    if not isinstance(vouched, bool):
        raise ProtocolViolation("`vouched` is true or false")
    narrowed = Caller(principal=caller.principal, scopes=kept, remote=caller.remote or remote, via=via or caller.via, vouched=vouched)
    return narrowed, _patience(said)


def _holds(held: frozenset[str], scope: str) -> bool:
    return scope in held or bool(held & {"full", "admin"} and (scope in _OF_FULL or scope.startswith(_SANDBOX)))


def _patience(said: dict[str, Any]) -> float:
    patience_s = said.get(_PATIENCE, 0)
    if isinstance(patience_s, bool) or not isinstance(patience_s, (int, float)) or not 0 <= patience_s <= MAX_PATIENCE_S:
        raise ProtocolViolation(f"a connection may be away for at most {MAX_PATIENCE_S:g} seconds")
    return float(patience_s)


def _parsed(text: bytes | bytearray) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation("a preface is JSON") from error
    if not isinstance(said, dict) or said.keys() - {_PATIENCE, _VOUCHED} != _KEYS:
        raise ProtocolViolation(f"a preface is an object of {', '.join(sorted(_KEYS))}, and perhaps {_PATIENCE} and {_VOUCHED}")
    return said
