"""What a frame looks like (docs/guest-protocol.md, sections 1 and 2): the numbers, and encoding. Reading is `frames`.

On the command line's hot path: imports struct and the errors only, and stays so.
"""

from __future__ import annotations

import struct

from agentkernel.errors import ProtocolViolation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
MAX_PAYLOAD = 131_072
OVERHEAD = 20
MAX_FRAME = MAX_PAYLOAD + OVERHEAD
MAX_OUTPUT = 65_536  # data bytes in one OUTPUT
MAX_TUNNEL_DATA = 65_536  # data bytes in one frame of a tunnel
FIRST_CREDIT_BYTES = 16_384  # which both directions of a tunnel begin with
MAX_CREDIT_BYTES = 1024 * 1024  # at a time
MAX_WINDOW_BYTES = 262_144  # what each side of ours lets be on its way at most
TUNNEL_END = 1  # flag of a tunnel's data: this direction ends after it
CRITICAL = 1  # field flag: who does not know the key must refuse

HOST_MAGIC = b"AKCHAN1\n"
AGENT_MAGIC = b"AKAGENT\n"

HELLO = struct.Struct("<8s16sHHI")
HELLO_REPLY = struct.Struct("<8s16sHHI16s")
HEADER = struct.Struct("<IBBHQ")
TAG = struct.Struct("<I")
FIELD = struct.Struct("<HHI")


def tag_of(epoch: bytes) -> int:
    """The attach's tag; an epoch with tag 0 must not be used."""
    return int.from_bytes(epoch[:4], "little")


def encode_hello(epoch: bytes, version_min: int = VERSION, version_max: int = VERSION) -> bytes:
    """A HELLO; the epoch is 16 random bytes, the first four not all zero."""
    return HELLO.pack(HOST_MAGIC, epoch, version_min, version_max, 0)


def encode_frame(
    tag: int, kind: int, ident: int, payload: bytes | memoryview = b"", flags: int = 0, rest: bytes | memoryview = b""
) -> bytes:
    """One frame; `rest` is more of its payload. The caller has checked that they fit (`MAX_PAYLOAD`)."""
    return b"".join((HEADER.pack(len(payload) + len(rest), kind, flags, 0, ident), payload, rest, TAG.pack(tag)))


def encode_fields(fields: list[tuple[int, bytes]]) -> bytes:
    """A field list without flags."""
    parts: list[bytes] = []
    for key, value in fields:
        parts.append(FIELD.pack(key, 0, len(value)))
        parts.append(value)
    return b"".join(parts)


def decode_fields(payload: bytes | memoryview) -> Iterator[tuple[int, int, bytes | memoryview]]:
    """Reads a field list as (key, flags, value); raises ProtocolViolation where it does not fill the payload exactly."""
    position, end = 0, len(payload)
    while position < end:
        if end - position < FIELD.size:
            raise ProtocolViolation("a field's header is cut")
        key, flags, length = FIELD.unpack_from(payload, position)
        position += FIELD.size
        if length > end - position:
            raise ProtocolViolation("a field is longer than its payload")
        yield key, flags, payload[position : position + length]
        position += length
