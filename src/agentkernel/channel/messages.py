"""The payloads of the guest protocol's messages (docs/guest-protocol.md, section 2): encoding, and checked parsing.

Every `parse_*` raises ProtocolViolation for what the agent must not send.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from agentkernel.channel.wire import CRITICAL, MAX_PAYLOAD, decode_fields, encode_fields
from agentkernel.errors import InvalidInput, ProtocolViolation
from agentkernel.model.command import TerminalSize

Rlimit = tuple[int, int, int]  # resource, soft, hard
Payload = bytes | memoryview

DEFAULT_RING_BYTES: Final = 262_144
MIN_RING_BYTES: Final = 4096
ORPHAN_MS: Final = 60_000
MAX_ECHO: Final = 64

OFFSET: Final = struct.Struct("<Q")
TWO_OFFSETS: Final = struct.Struct("<QQ")
SIGNAL: Final = struct.Struct("<QII")
RESIZE: Final = struct.Struct("<HH")
WORD: Final = struct.Struct("<I")
SHORT: Final = struct.Struct("<H")
_NETWORK_PORTS = struct.Struct("<HHH")
_RLIMIT = struct.Struct("<IQQ")
_FAILED = struct.Struct("<II")
_EXITED = struct.Struct("<IIIIQQQQQQ")
_RESUMED = struct.Struct("<IIQQQQ")

_SECCOMP, _ORPHAN_MS, _RLIMITS, _LINGER_MS, _NETWORK = 1, 2, 3, 4, 5
_ARGV, _ENV, _CWD, _UID, _GID, _GROUP, _TERMINAL, _FLAGS, _RING, _TIMEOUT_MS, _BUILTIN = range(1, 12)
_REPLY_ECHO = 3  # 1 and 2: see `replies`


class Builtin(IntEnum):
    """Programs that the agent brings along (section 4)."""

    READ = 1
    WRITE = 2
    STAT = 3
    LIST = 4
    MAKE_DIRECTORY = 5
    REMOVE = 6
    MOVE = 7
    WATCH = 8
    CONNECT = 9
    SYMLINK = 10
    CHANGE_MODE = 11
    SPACE = 12


class StartFlag(IntEnum):
    """FLAGS of START."""

    DETACHED = 1
    STDIN = 2
    ENDS_TREE = 4


_ALL_FLAGS: Final = StartFlag.DETACHED | StartFlag.STDIN | StartFlag.ENDS_TREE


class Stage(IntEnum):
    """Where starting a process failed."""

    REQUEST = 0
    FORK = 1
    CGROUP = 2
    LIMITS = 3
    USER = 4
    DIRECTORY = 5
    TERMINAL = 6
    SECCOMP = 7
    EXEC = 8


class KillCause(IntEnum):
    """Why the host kills."""

    REQUEST = 2
    CLIENT_LOST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What START says; `argv` are the builtin's arguments where there is one."""

    argv: tuple[bytes, ...]
    environment: tuple[bytes, ...] = ()  # NAME=value
    cwd: bytes = b"/"
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    terminal: TerminalSize | None = None
    flags: int = 0
    ring_bytes: int = DEFAULT_RING_BYTES
    timeout_ms: int = 0
    builtin: Builtin | None = None


class NetworkPorts(NamedTuple):
    """NETWORK: where inside, on loopback, the agent takes connections that go on through the stream."""

    proxy: int  # HTTP and SOCKS
    resolver: int  # DNS
    transparent: int  # what programs connect to that know no proxy; 0: there is none


class Failure(NamedTuple):
    """FAILED: why the agent did not do it."""

    errno: int
    stage: int
    text: str


class Exited(NamedTuple):
    """EXITED, as sent."""

    kind: int
    value: int
    cause: int
    flags: int
    stdout_end: int
    stderr_end: int
    wall_us: int
    user_us: int
    system_us: int
    max_rss_bytes: int

    @property
    def signalled(self) -> bool:
        """Whether a signal ended it."""
        return self.kind == 1

    @property
    def survivors(self) -> bool:
        """Whether background processes went on."""
        return bool(self.flags & 1)

    @property
    def output_lost(self) -> bool:
        """Whether the ring dropped output."""
        return bool(self.flags & 2)


class Resumed(NamedTuple):
    """RESUMED, as sent."""

    state: int
    pid: int
    stdout_first: int
    stderr_first: int
    stdin_consumed: int
    stdin_limit: int


def encode_configure(
    seccomp: bytes,
    rlimits: tuple[Rlimit, ...],
    orphan_ms: int = ORPHAN_MS,
    linger_ms: int = 0,
    network: NetworkPorts | None = None,
) -> bytes:
    """The payload of CONFIGURE."""
    fields = [(_SECCOMP, seccomp)] if seccomp else []
    if orphan_ms != ORPHAN_MS:
        fields.append((_ORPHAN_MS, WORD.pack(orphan_ms)))
    if linger_ms:
        fields.append((_LINGER_MS, WORD.pack(linger_ms)))
    fields += [(_RLIMITS, _RLIMIT.pack(*limit)) for limit in rlimits]
    if network is not None:
        fields.append((_NETWORK, _NETWORK_PORTS.pack(*network)))
    return encode_fields(fields)


def encode_start(start: Start) -> bytes:
    """The payload of START; raises InvalidInput where it does not fit one frame or a text holds NUL."""
    fields = [(_ARGV, argument) for argument in start.argv]
    fields += [(_ENV, variable) for variable in start.environment]
    if start.cwd != b"/":
        fields.append((_CWD, start.cwd))
    if b"\0" in b"".join([value for _, value in fields]):
        raise InvalidInput("a command's arguments, environment and directory cannot hold NUL bytes")
    for key, number in ((_UID, start.uid), (_GID, start.gid)):
        if number is not None:
            fields.append((key, WORD.pack(number)))
    fields += [(_GROUP, WORD.pack(group)) for group in start.groups]
    if start.terminal is not None:
        fields.append((_TERMINAL, RESIZE.pack(start.terminal.rows, start.terminal.columns)))
    if start.flags:
        fields.append((_FLAGS, WORD.pack(start.flags)))
    if start.ring_bytes != DEFAULT_RING_BYTES:
        fields.append((_RING, WORD.pack(start.ring_bytes)))
    if start.timeout_ms:
        fields.append((_TIMEOUT_MS, OFFSET.pack(start.timeout_ms)))
    if start.builtin is not None:
        fields.append((_BUILTIN, SHORT.pack(start.builtin)))
    payload = encode_fields(fields)
    if len(payload) > MAX_PAYLOAD:
        raise InvalidInput(
            f"arguments and environment take {len(payload)} bytes, at most {MAX_PAYLOAD} can be passed",
            hint="write the data into a file of the sandbox, or pass it as input",
        )
    return payload


def decode_start(payload: Payload) -> Start:
    """The reverse; raises InvalidInput for what an agent would refuse."""
    try:
        values = _start_values(payload)
        number = {key: WORD.unpack(values[key][0])[0] for key in (_UID, _GID, _FLAGS, _RING) if key in values}
        start = Start(
            argv=tuple(values.get(_ARGV, ())),
            environment=tuple(values.get(_ENV, ())),
            cwd=values[_CWD][0] if _CWD in values else b"/",
            uid=number.get(_UID),
            gid=number.get(_GID),
            groups=tuple(WORD.unpack(group)[0] for group in values.get(_GROUP, ())),
            terminal=TerminalSize(**dict(zip(("rows", "columns"), RESIZE.unpack(values[_TERMINAL][0]), strict=True)))
            if _TERMINAL in values
            else None,
            flags=number.get(_FLAGS, 0),
            ring_bytes=number.get(_RING, DEFAULT_RING_BYTES),
            timeout_ms=OFFSET.unpack(values[_TIMEOUT_MS][0])[0] if _TIMEOUT_MS in values else 0,
            builtin=Builtin(SHORT.unpack(values[_BUILTIN][0])[0]) if _BUILTIN in values else None,
        )
    except (ProtocolViolation, ValueError, struct.error) as error:
        raise InvalidInput(f"malformed START: {error}") from error
    if not start.argv or not MIN_RING_BYTES <= start.ring_bytes <= DEFAULT_RING_BYTES or start.flags & ~_ALL_FLAGS:
        raise InvalidInput("malformed START: no argv, an unusual ring or unknown flags")
    return start


def _start_values(payload: Payload) -> dict[int, list[bytes]]:
    values: dict[int, list[bytes]] = {}
    for key, flags, value in decode_fields(payload):
        if not _ARGV <= key <= _BUILTIN:
            if flags & CRITICAL:
                raise ProtocolViolation(f"unknown critical field {key}")
        elif key in values and key not in (_ARGV, _ENV, _GROUP):
            raise ProtocolViolation(f"field {key} comes twice")
        else:
            values.setdefault(key, []).append(bytes(value))
    return values


def parse_failed(payload: Payload) -> Failure:
    """Reads FAILED; its text is made safe to print, because the guest wrote it."""
    if not _FAILED.size <= len(payload) <= _FAILED.size + 200:
        raise ProtocolViolation("malformed FAILED")
    errno, stage = _FAILED.unpack_from(payload)
    if not 0 < errno < 4096 or stage > Stage.EXEC:
        raise ProtocolViolation("malformed FAILED")
    text = bytes(payload[_FAILED.size :]).decode("utf-8", "replace")
    return Failure(errno, stage, "".join(letter if letter.isprintable() else "?" for letter in text))


def parse_pid(payload: Payload) -> int:
    """Reads STARTED."""
    pid = int.from_bytes(payload, "little")
    if len(payload) != WORD.size or pid == 0:
        raise ProtocolViolation("malformed STARTED")
    return pid


def parse_two_offsets(payload: Payload) -> tuple[int, int]:
    """Reads STDIN_CONSUMED: consumed and limit."""
    if len(payload) != TWO_OFFSETS.size:
        raise ProtocolViolation("malformed STDIN_CONSUMED")
    consumed, limit = TWO_OFFSETS.unpack(payload)
    return consumed, limit


def encode_exited(exited: Exited) -> bytes:
    """The payload of EXITED."""
    return _EXITED.pack(*exited)


def encode_resumed(resumed: Resumed) -> bytes:
    """The payload of RESUMED."""
    return _RESUMED.pack(*resumed)


def encode_failed(failure: Failure) -> bytes:
    """The payload of FAILED."""
    return _FAILED.pack(failure.errno, failure.stage) + failure.text.encode()[:200]


def parse_exited(payload: Payload) -> Exited:
    """Reads EXITED."""
    if len(payload) != _EXITED.size:
        raise ProtocolViolation("malformed EXITED")
    exited = Exited._make(_EXITED.unpack(payload))
    legal = 1 <= exited.value <= 64 if exited.kind == 1 else exited.kind == 0 and exited.value <= 255
    if not legal or exited.cause > 4:
        raise ProtocolViolation("an EXITED that no process can have")
    return exited


def parse_resumed(payload: Payload) -> Resumed:
    """Reads RESUMED."""
    if len(payload) != _RESUMED.size:
        raise ProtocolViolation("malformed RESUMED")
    resumed = Resumed._make(_RESUMED.unpack(payload))
    if resumed.state > 1 or resumed.pid == 0:
        raise ProtocolViolation("malformed RESUMED")
    return resumed


def reply_values(payload: Payload, wanted: int) -> Iterator[bytes]:
    """The values of the field `wanted` in a REPLY."""
    for key, flags, value in decode_fields(payload):
        if key == wanted:
            yield bytes(value)
        elif flags & CRITICAL:
            raise ProtocolViolation(f"a reply has the unknown critical field {key}")


def encode_echo(data: bytes) -> bytes:
    """The reply to PING."""
    return encode_fields([(_REPLY_ECHO, data)])


def parse_echo(payload: Payload) -> bytes:
    """Reads the reply to PING."""
    for value in reply_values(payload, _REPLY_ECHO):
        return value
    raise ProtocolViolation("a reply to PING without its echo")
