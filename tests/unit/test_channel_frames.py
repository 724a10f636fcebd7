"""Framing: the vectors, any cut, any garbage."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from agentkernel.channel import frames, wire
from agentkernel.channel.frames import (
    AGENT_TYPES,
    HOST_TYPES,
    FrameDecoder,
    FrameType,
    HelloReply,
    decode_hello,
    encode_hello_reply,
)
from agentkernel.channel.wire import MAX_FRAME, MAX_PAYLOAD, decode_fields, encode_fields, encode_frame, encode_hello, tag_of
from agentkernel.errors import ProtocolViolation

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "protocol.json").read_text())
EPOCH = bytes.fromhex(VECTORS["attach"][0]["epoch_hex"])


def named(group: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[group]]


def types_of(direction: str) -> frozenset[int]:
    return HOST_TYPES if direction == "host" else AGENT_TYPES


@pytest.mark.parametrize("vector", [v for v in VECTORS["attach"] if v["direction"] == "host"], ids=lambda v: v["name"])
def test_a_hello_is_the_vectors_bytes(vector: dict[str, Any]) -> None:
    encoded = encode_hello(EPOCH, vector["version_min"], vector["version_max"])
    assert encoded.hex() == vector["hex"]
    assert decode_hello(encoded) == (EPOCH, vector["version_min"], vector["version_max"])
    assert tag_of(EPOCH) == vector["tag"]


@pytest.mark.parametrize("vector", [v for v in VECTORS["attach"] if v["direction"] == "agent"], ids=lambda v: v["name"])
def test_a_hello_reply_is_read_and_written_as_the_vectors_say(vector: dict[str, Any]) -> None:
    decoder = FrameDecoder(EPOCH)
    assert decoder.feed(bytes.fromhex(vector["hex"])) == []
    expected = HelloReply(EPOCH, vector["version"], vector["arch"], vector["state"], bytes.fromhex(vector["boot_id_hex"]))
    assert decoder.hello == expected
    assert encode_hello_reply(expected).hex() == vector["hex"]


@pytest.mark.parametrize("vector", named("frames"))
def test_every_frame_of_the_vectors_is_read_and_written_alike(vector: dict[str, Any]) -> None:
    payload = bytes.fromhex(vector["payload_hex"])
    encoded = encode_frame(vector["tag"], FrameType[vector["type_name"]], vector["id"], payload, vector["flags"])
    assert encoded.hex() == vector["hex"]
    decoder = FrameDecoder(EPOCH, types=types_of(vector["direction"]), greeted=True)
    assert decoder.feed(encoded) == [(vector["type"], vector["flags"], vector["id"], payload)]


@pytest.mark.parametrize("vector", named("bad_frames"))
def test_every_bad_frame_of_the_vectors_is_refused(vector: dict[str, Any]) -> None:
    decoder = FrameDecoder(EPOCH, types=types_of(vector["direction"]), greeted=True)
    with pytest.raises(ProtocolViolation):
        decoder.feed(bytes.fromhex(vector["hex"]) + bytes(MAX_FRAME))


def test_the_constants_are_those_of_the_vectors() -> None:
    assert VECTORS["max_payload"] == MAX_PAYLOAD
    assert VECTORS["protocol"] == wire.VERSION


def stream_of_frames(source: random.Random) -> tuple[bytes, list[tuple[int, int, int, bytes]]]:
    expected = []
    data = encode_hello_reply(HelloReply(EPOCH, 1, 1, 7, bytes(16)))
    for _ in range(40):
        size = source.choice((0, 1, 15, 16, 17, 300, 65_544, MAX_PAYLOAD))
        frame = (source.choice(sorted(AGENT_TYPES)), source.randrange(256), source.randrange(2**64), source.randbytes(size))
        expected.append(frame)
        data += encode_frame(tag_of(EPOCH), frame[0], frame[2], frame[3], frame[1])
    return data, expected


@pytest.mark.parametrize("largest_piece", [1, 7, 4096, 300_000])
def test_frames_survive_any_cutting_of_the_stream(largest_piece: int) -> None:
    source = random.Random(largest_piece)
    data, expected = stream_of_frames(source)
    if largest_piece == 1:
        data, expected = data[:400], []
    decoder, got, position = FrameDecoder(EPOCH), [], 0
    while position < len(data):
        size = source.randint(1, largest_piece)
        got += decoder.feed(data[position : position + size])
        position += size
    if expected:
        assert got == expected
    else:
        assert decoder.hello is not None and got


def test_bytes_of_an_earlier_attach_are_dropped_until_the_reply() -> None:
    old = bytes(range(16))
    stale = encode_frame(7, FrameType.OUTPUT, 1, b"x" * 1000) + encode_hello_reply(HelloReply(old, 1, 1, 0, bytes(16))) + wire.AGENT_MAGIC
    frame = encode_frame(tag_of(EPOCH), FrameType.REPLY, 5)
    data = stale + encode_hello_reply(HelloReply(EPOCH, 1, 1, 0, bytes(16))) + frame
    for size in (1, 23, 24, 25, len(data)):
        decoder = FrameDecoder(EPOCH)
        got = [found for at in range(0, len(data), size) for found in decoder.feed(data[at : at + size])]
        assert got == [(FrameType.REPLY, 0, 5, b"")]


def test_an_agent_that_never_answers_the_attach_is_cut_off_after_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_STALE_BYTES", 1_000_000)
    decoder = FrameDecoder(EPOCH)
    with pytest.raises(ProtocolViolation):
        for _ in range(10):
            decoder.feed(bytes(200_000))


def test_a_decoder_always_has_room_and_never_grows() -> None:
    source = random.Random(1)
    data, _ = stream_of_frames(source)
    decoder, position = FrameDecoder(EPOCH), 0
    while position < len(data):
        room = decoder.writable()
        assert 0 < len(room) <= 2 * MAX_FRAME
        count = min(len(room), len(data) - position, source.randint(1, 70_000))
        room[:count] = data[position : position + count]
        position += count
        if decoder.hello is None and decoder.find_hello(count) is None:
            continue
        for _ in decoder.received(0 if position == count else count):
            pass


@pytest.mark.parametrize("length", [MAX_PAYLOAD + 1, 2**31, 2**32 - 1])
def test_a_giant_length_is_refused_as_soon_as_the_header_is_there(length: int) -> None:
    header = length.to_bytes(4, "little") + bytes([FrameType.OUTPUT, 0, 0, 0]) + bytes(8)
    decoder = FrameDecoder(EPOCH, greeted=True)
    assert decoder.feed(header[:15]) == []
    with pytest.raises(ProtocolViolation, match="longer"):
        decoder.feed(header[15:])


def test_a_field_list_comes_back_as_it_was_written() -> None:
    fields = [(1, b"a"), (1, b""), (2**16 - 1, b"x" * 1000)]
    assert [(key, bytes(value)) for key, _, value in decode_fields(encode_fields(fields))] == fields


@pytest.mark.parametrize("payload", [b"\1", b"\1\0\0\0\5\0\0\0abcd", b"\1\0\0\0\xff\xff\xff\xffab"])
def test_a_cut_field_list_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        list(decode_fields(payload))


@pytest.mark.parametrize("data", [b"", bytes(32), b"AKCHAN1\n" + bytes(24), encode_hello(EPOCH)[:-1] + b"\1"])
def test_a_malformed_hello_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_hello(data)
