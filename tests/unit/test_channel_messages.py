"""Payloads: the vectors, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from agentkernel.channel import messages, replies
from agentkernel.channel.messages import Builtin, Start, encode_configure, encode_start
from agentkernel.errors import InvalidInput, ProtocolViolation
from agentkernel.model.command import TerminalSize

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "protocol.json").read_text())
FRAMES: dict[str, Any] = {vector["name"]: vector for vector in VECTORS["frames"]}


def payload_of(name: str) -> bytes:
    return bytes.fromhex(FRAMES[name]["payload_hex"])


def meaning_of(name: str) -> dict[str, Any]:
    meaning: dict[str, Any] = FRAMES[name]["payload"]
    return meaning


@pytest.mark.parametrize("name", ["start_minimal", "start_full", "start_builtin"])
def test_start_is_encoded_as_the_vectors_say(name: str) -> None:
    meaning = meaning_of(name)
    terminal = meaning["terminal"]
    start = Start(
        argv=tuple(argument.encode() for argument in meaning["argv"]),
        environment=tuple(variable.encode() for variable in meaning["env"]),
        cwd=meaning["cwd"].encode(),
        uid=meaning["uid"],
        gid=meaning["gid"],
        groups=tuple(meaning["groups"]),
        terminal=TerminalSize(rows=terminal[0], columns=terminal[1]) if terminal else None,
        flags=meaning["start_flags"],
        ring_bytes=meaning["ring"],
        timeout_ms=meaning["timeout_ms"],
        builtin=Builtin(meaning["builtin"]) if meaning["builtin"] else None,
    )
    assert encode_start(start).hex() == FRAMES[name]["payload_hex"]


@pytest.mark.parametrize("name", ["configure", "configure_empty"])
def test_configure_is_encoded_as_the_vectors_say(name: str) -> None:
    meaning = meaning_of(name)
    seccomp = b"".join(struct.pack("<HBBI", *instruction) for instruction in meaning["seccomp"])
    rlimits = tuple((r, s, h) for r, s, h in meaning["rlimits"])
    encoded = encode_configure(seccomp, rlimits)
    # The vector states the default orphan time, which the encoder leaves out.
    stated = bytes.fromhex("020000000400000060ea0000")
    assert encoded == payload_of(name).replace(stated, b"")
    assert stated.replace(b"\x60\xea", b"\x61\xea") in encode_configure(seccomp, rlimits, 60_001)


def test_answers_are_read_as_the_vectors_say() -> None:
    assert messages.parse_pid(payload_of("started")) == 42
    assert messages.parse_two_offsets(payload_of("stdin_consumed_closed")) == (65_536, 131_072)
    assert messages.parse_echo(payload_of("reply_echo")) == b"abc"
    for name in ("failed_missing_command", "failed_bad_payload"):
        assert messages.parse_failed(payload_of(name))._asdict() == meaning_of(name)
    for name in ("resumed_running", "resumed_ended"):
        assert messages.parse_resumed(payload_of(name))._asdict() == meaning_of(name)
    for name in ("exited_zero", "exited_timeout"):
        exited = messages.parse_exited(payload_of(name))
        assert {**exited._asdict(), "exited_flags": exited.flags} == {**meaning_of(name), "flags": exited.flags}


def test_replies_with_lists_are_read_as_the_vectors_say() -> None:
    records = replies.parse_processes(payload_of("reply_list"))
    expected = meaning_of("reply_list")["processes"]
    assert [(r.exec_id, r.pid, r.running, r.detached, r.started_unix_ms, r.argv) for r in records] == [
        (p["exec"], p["pid"], p["state"] == 0, bool(p["start_flags"] & 1), p["started_unix_ms"], tuple(a.encode() for a in p["argv"]))
        for p in expected
    ]
    statistics = replies.parse_statistics(payload_of("reply_stats"))
    stats = meaning_of("reply_stats")["stats"]
    assert {name: getattr(statistics, name) for name in stats} == stats
    assert replies.parse_processes(payload_of("reply_empty")) == []


def test_text_from_the_guest_cannot_drive_a_terminal() -> None:
    failure = messages.parse_failed(struct.pack("<II", 2, 8) + b"\x1b]0;title\x07\xff\n")
    assert failure.text == "?]0;title?\ufffd?"


@pytest.mark.parametrize(
    ("parse", "payload"),
    [
        (messages.parse_failed, b"\2\0\0\0\x08\0\0"),
        (messages.parse_failed, struct.pack("<II", 0, 8)),
        (messages.parse_failed, struct.pack("<II", 2, 9)),
        (messages.parse_failed, struct.pack("<II", 2, 8) + b"x" * 201),
        (messages.parse_pid, b"\1\0\0"),
        (messages.parse_pid, bytes(4)),
        (messages.parse_two_offsets, bytes(15)),
        (messages.parse_exited, bytes(63)),
        (messages.parse_exited, struct.pack("<IIIIQQQQQQ", 0, 256, 0, 0, 0, 0, 0, 0, 0, 0)),
        (messages.parse_exited, struct.pack("<IIIIQQQQQQ", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
        (messages.parse_exited, struct.pack("<IIIIQQQQQQ", 1, 65, 0, 0, 0, 0, 0, 0, 0, 0)),
        (messages.parse_exited, struct.pack("<IIIIQQQQQQ", 2, 1, 0, 0, 0, 0, 0, 0, 0, 0)),
        (messages.parse_exited, struct.pack("<IIIIQQQQQQ", 0, 0, 5, 0, 0, 0, 0, 0, 0, 0)),
        (messages.parse_resumed, bytes(39)),
        (messages.parse_resumed, struct.pack("<IIQQQQ", 2, 1, 0, 0, 0, 0)),
        (replies.parse_statistics, b""),
        (replies.parse_statistics, struct.pack("<HHI", 2, 0, 4) + bytes(4)),
        (replies.parse_processes, struct.pack("<HHI", 1, 0, 4) + bytes(4)),
        (replies.parse_processes, struct.pack("<HHI", 99, 1, 0)),
        (messages.parse_echo, b""),
    ],
)
def test_what_an_agent_must_not_send_is_refused(parse: Any, payload: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parse(payload)


def test_what_cannot_be_started_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidInput, match="NUL"):
        encode_start(Start(argv=(b"a\0b",)))
    with pytest.raises(InvalidInput, match="at most 131072"):
        encode_start(Start(argv=(b"x" * 131_070,)))
    assert len(encode_start(Start(argv=(b"x" * (131_072 - 8),)))) == 131_072
