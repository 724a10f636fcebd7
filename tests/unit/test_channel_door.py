"""The door's field lists and errors: what one end writes the other reads, and malformed ones are refused."""

from __future__ import annotations

import errno
import struct

import pytest

from agentkernel.channel import door, refusal
from agentkernel.channel.wire import CRITICAL, FIELD, encode_fields
from agentkernel.errors import AgentKernelError, CommandNotFound, FileOperationFailed, InvalidInput, NotFound, ProtocolViolation

EXITED = struct.pack("<IIIIQQQQQQ", 0, 3, 0, 0, 1, 2, 3, 4, 5, 6)


def test_what_is_addressed_to_a_sandbox_carries_the_payload_as_it_is() -> None:
    assert door.decode_request(door.encode_addressed("box", b"inner")) == {door.SANDBOX: [b"box"], door.INNER: [b"inner"]}
    assert door.decode_request(door.encode_addressed("box")) == {door.SANDBOX: [b"box"]}
    assert door.decode_request(door.encode_addressed("", bytes(16))) == {door.INNER: [bytes(16)]}
    with pytest.raises(InvalidInput):
        door.encode_addressed("\udcff")


def test_words_come_with_where_they_were_typed() -> None:
    fields = door.decode_request(door.encode_words([b"run", b"\xff"], b"/tmp", [b"A=1", b"B=2"], 5, (24, 80)))
    assert fields[door.WORD] == [b"run", b"\xff"]
    assert fields[door.CWD] == [b"/tmp"]
    assert fields[door.ENV] == [b"A=1", b"B=2"]
    assert door.number(fields, door.TTYS) == 5
    assert door.size(fields) == (24, 80)
    assert door.size(door.decode_request(door.encode_words([b"run"], b"/", [], 0, None))) is None


def test_started_tells_the_sandbox_and_what_to_say() -> None:
    assert door.decode_started(door.encode_started(7)) == (7, "", [], "", 0)
    assert door.decode_started(door.encode_started(7, "a" * 16, [b"{}", b"[]"])) == (7, "a" * 16, [b"{}", b"[]"], "", 0)
    assert door.decode_started(door.encode_started(7, "a" * 16, [], "gvisor", 3)) == (7, "a" * 16, [], "gvisor", 3)


def test_exited_tells_limits_cause_and_what_to_exit_with() -> None:
    assert door.decode_exited(door.encode_exited(EXITED, 5, 1)) == (EXITED, 5, 1, None, "")
    assert door.decode_exited(memoryview(door.encode_exited(EXITED, 0, 0, 0, "m\udcff"))) == (EXITED, 0, 0, 0, "m\udcff")


@pytest.mark.parametrize(
    "error",
    [
        NotFound("no sandbox \x1b 'ä'", hint="look"),
        CommandNotFound("x"),
        FileOperationFailed("read", "/a", errno.EISDIR),
        AgentKernelError("m" * 8000, hint="h" * 8000),
    ],
)
def test_an_error_arrives_as_it_was_raised(error: AgentKernelError) -> None:
    payload = refusal.encode_refusal(error)
    assert refusal.is_refusal(payload)
    arrived = refusal.decode_refusal(payload)
    assert type(arrived) is type(error)
    assert (arrived.message, arrived.hint, arrived.code, arrived.exit_status) == (error.message, error.hint, error.code, error.exit_status)
    assert str(arrived) == str(error)
    assert getattr(arrived, "errno", None) == getattr(error, "errno", None)


def test_an_endless_message_is_cut_to_what_a_frame_holds() -> None:
    assert len(refusal.encode_refusal(NotFound("\udcff" * 200_000, hint="\x07" * 200_000))) < 131_072


def test_an_error_of_a_later_version_keeps_its_code() -> None:
    arrived = refusal.revive("out_of_cheese", "no cheese", exit_status=77)
    assert (type(arrived), arrived.code, arrived.exit_status) == (AgentKernelError, "out_of_cheese", 77)
    assert AgentKernelError.code == "error"


@pytest.mark.parametrize(
    "payload",
    [
        encode_fields([(door.SANDBOX, b"a"), (door.SANDBOX, b"b")]),
        FIELD.pack(99, CRITICAL, 0),
        FIELD.pack(door.SANDBOX, 0, 1),
        b"\0",
    ],
)
def test_a_malformed_request_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        door.decode_request(payload)


def test_an_unknown_field_is_ignored_where_it_may_be() -> None:
    assert door.decode_request(FIELD.pack(99, 0, 0)) == {}


def test_malformed_answers_are_refused() -> None:
    for payload in (b"", bytes(4), bytes(3)):
        with pytest.raises(ProtocolViolation):
            door.decode_started(payload)
    for payload in (EXITED, EXITED + bytes(7), EXITED + bytes(8) + encode_fields([(door.EXIT_STATUS, b"abc")])):
        with pytest.raises(ProtocolViolation):
            door.decode_exited(payload)
    for text in (b"", b"[]", b"{}", b'{"code": "x"}', b"\xff", b"[" * 100_000, b'{"code":1,"message":2,"exit_status":"x"}'):
        with pytest.raises(ProtocolViolation):
            refusal.decode_refusal(struct.pack("<II", 5, 255) + text)
    with pytest.raises(ProtocolViolation):
        door.number({door.TTYS: [b"abc"]}, door.TTYS)
    with pytest.raises(ProtocolViolation):
        door.size({door.TERMINAL: [b"abc"]})
