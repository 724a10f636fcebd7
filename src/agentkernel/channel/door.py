"""What the daemon's door adds to the guest protocol (docs/door-protocol.md): its field lists, for the client and the daemon alike. Pure.

On the command line's hot path: imports what `wire` does, and stays so.
"""

from __future__ import annotations

import struct

from agentkernel.channel.wire import CRITICAL, decode_fields, encode_fields
from agentkernel.errors import InvalidInput, ProtocolViolation

DRAINING = 1  # bit of HELLO_REPLY's state

SANDBOX, INNER, REQUEST, COMMAND, VISIT = 32, 33, 34, 35, 36
WORD, CWD, ENV, TTYS, TERMINAL = 40, 41, 42, 43, 7
SANDBOX_ID, NOTICE, EXIT_STATUS, MESSAGE = 48, 49, 50, 51
HAS_INPUT = 8  # bit of TTYS beside 1, 2 and 4

_LISTS = frozenset({WORD, ENV, NOTICE})
_KNOWN_TO_DAEMON = frozenset({SANDBOX, INNER, REQUEST, COMMAND, VISIT, WORD, CWD, ENV, TTYS, TERMINAL})
_KNOWN_TO_CLIENT = frozenset({SANDBOX_ID, NOTICE, EXIT_STATUS, MESSAGE})
_U32 = struct.Struct("<I")
_SIZE = struct.Struct("<HH")
_EXITED_BYTES = 64  # of the guest protocol's EXITED
_VERDICT = struct.Struct("<II")

Fields = dict[int, list[bytes]]


def encode_addressed(sandbox: str, inner: bytes | None = None) -> bytes:
    """START, RESUME and SIGNAL (with the guest protocol's payload), LIST and STATS (without) for one sandbox, by its id or name.

    An empty `sandbox` goes with RESUME and SIGNAL of a command that was started with a request or with words. Raises InvalidInput for a
    text that no name can be.
    """
    fields = [(SANDBOX, _encoded(sandbox))] if sandbox else []
    if inner is not None:
        fields.append((INNER, inner))
    return encode_fields(fields)


def encode_visit(sandbox: str, inner: bytes | None = None) -> bytes:
    """START (without `inner`) and RESUME of a visit: the sandbox runs for as long as it lasts."""
    fields = [(SANDBOX, _encoded(sandbox)), (VISIT, b"")]
    return encode_fields(fields if inner is None else [*fields, (INNER, inner)])


def encode_once(request: bytes, command: bytes) -> bytes:
    """START of a command in a sandbox that is made for it: both as JSON."""
    return encode_fields([(REQUEST, request), (COMMAND, command)])


def encode_words(words: list[bytes], cwd: bytes, environment: list[bytes], ttys: int, terminal: tuple[int, int] | None) -> bytes:
    """START of what was typed, from the verb on; `environment` holds NAME=value, `terminal` rows and columns."""
    fields = [(WORD, word) for word in words]
    fields.append((CWD, cwd))
    fields += [(ENV, variable) for variable in environment]
    fields.append((TTYS, _U32.pack(ttys)))
    if terminal is not None:
        fields.append((TERMINAL, _SIZE.pack(*terminal)))
    return encode_fields(fields)


def decode_request(payload: bytes | memoryview) -> Fields:
    """What a client sends, by key; raises ProtocolViolation for a malformed list, an unknown critical field and one that comes twice."""
    return _collect(payload, _KNOWN_TO_DAEMON)


def encode_started(pid: int, sandbox_id: str = "", notices: list[bytes] | tuple[bytes, ...] = ()) -> bytes:
    """STARTED: notices as JSON."""
    fields = [(SANDBOX_ID, sandbox_id.encode())] if sandbox_id else []
    return _U32.pack(pid) + encode_fields(fields + [(NOTICE, notice) for notice in notices])


def decode_started(payload: bytes | memoryview) -> tuple[int, str, list[bytes]]:
    """Reads STARTED: pid, sandbox id (empty where the client named it) and notices."""
    if len(payload) < _U32.size:
        raise ProtocolViolation("malformed STARTED")
    (pid,) = _U32.unpack_from(payload)
    if pid == 0:
        raise ProtocolViolation("malformed STARTED")
    fields = _collect(payload[_U32.size :], _KNOWN_TO_CLIENT)
    return pid, _text(fields, SANDBOX_ID), fields.get(NOTICE, [])


def encode_exited(exited: bytes, limits: int, cause: int, exit_status: int | None = None, message: str = "") -> bytes:
    """EXITED: the guest protocol's struct, limits as bits, the cause by its place in `model.command.Cause`, and for words the rest."""
    fields = [(EXIT_STATUS, _U32.pack(exit_status))] if exit_status is not None else []
    if message:
        fields.append((MESSAGE, message.encode("utf-8", "surrogateescape")))
    return exited + _VERDICT.pack(limits, cause) + encode_fields(fields)


def decode_exited(payload: bytes | memoryview) -> tuple[bytes, int, int, int | None, str]:
    """Reads EXITED: the guest protocol's struct (not looked into), limits, cause, and for words exit status and message."""
    if len(payload) < _EXITED_BYTES + _VERDICT.size:
        raise ProtocolViolation("malformed EXITED")
    limits, cause = _VERDICT.unpack_from(payload, _EXITED_BYTES)
    fields = _collect(payload[_EXITED_BYTES + _VERDICT.size :], _KNOWN_TO_CLIENT)
    status = number(fields, EXIT_STATUS) if EXIT_STATUS in fields else None
    return bytes(payload[:_EXITED_BYTES]), limits, cause, status, _text(fields, MESSAGE)


def number(fields: Fields, key: int) -> int:
    """The u32 of a field; 0 without it."""
    if key not in fields:
        return 0
    if len(fields[key][0]) != _U32.size:
        raise ProtocolViolation(f"field {key} is no u32")
    return int(_U32.unpack(fields[key][0])[0])


def size(fields: Fields) -> tuple[int, int] | None:
    """Rows and columns of TERMINAL."""
    if TERMINAL not in fields:
        return None
    if len(fields[TERMINAL][0]) != _SIZE.size:
        raise ProtocolViolation("malformed TERMINAL")
    rows, columns = _SIZE.unpack(fields[TERMINAL][0])
    return rows, columns


def _encoded(name: str) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"a sandbox's name is UTF-8, not {name!r}") from error


def _text(fields: Fields, key: int) -> str:
    return fields[key][0].decode("utf-8", "surrogateescape") if key in fields else ""


def _collect(payload: bytes | memoryview, known: frozenset[int]) -> Fields:
    fields: Fields = {}
    for key, flags, value in decode_fields(payload):
        if key not in known:
            if flags & CRITICAL:
                raise ProtocolViolation(f"unknown critical field {key}")
            continue
        if key in fields and key not in _LISTS:
            raise ProtocolViolation(f"field {key} comes twice")
        fields.setdefault(key, []).append(bytes(value))
    return fields
