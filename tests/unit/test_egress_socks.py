"""SOCKS as hostile programs speak it."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated

from agentkernel.egress.socks import LIMIT, BadSocks, Reply, SocksReader, SocksRequest, render_reply

GREETING = b"\x05\x01\x00"
ACCEPTED = b"\x05\x00"


def by_name(name: bytes, port: int = 443, command: int = 1) -> bytes:
    return bytes((5, command, 0, 3, len(name))) + name + port.to_bytes(2, "big")


def outcome(data: bytes, sizes: list[int]) -> tuple[object, ...]:
    """What becomes of data that comes in pieces of those sizes, and what was sent meanwhile."""
    reader = SocksReader()
    at = 0
    sent = b""
    for size in [*sizes, len(data)]:
        try:
            found = reader.feed(data[at : at + size])
        except BadSocks as error:
            assert error.reason.isascii()
            return error.reason, sent + reader.take_output() + error.answer
        sent += reader.take_output()
        at += size
        if found is not None:
            return found, sent, reader.rest + data[at:]
    return (sent,)


@pytest.mark.parametrize(
    ("data", "host", "port", "rest"),
    [
        (GREETING + by_name(b"example.com"), "example.com", 443, b""),
        (GREETING + by_name(b"EXAMPLE.com.", 22) + b"SSH-2.0", "example.com", 22, b"SSH-2.0"),
        (b"\x05\x03\x02\x01\x00" + by_name(b"a" * 63 + b".com"), "a" * 63 + ".com", 443, b""),
        (GREETING + by_name(b"0x7f.1"), "127.0.0.1", 443, b""),
        (GREETING + by_name(b"[::1]"), "::1", 443, b""),
        (GREETING + b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", "127.0.0.1", 80, b""),
        (GREETING + b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50", "::1", 80, b""),
        (GREETING + b"\x05\x01\x00\x04" + bytes(10) + b"\xff\xff\xa9\xfe\xa9\xfe\x00\x50", "169.254.169.254", 80, b""),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", "127.0.0.1", 80, b""),
        (b"\x04\x01\x00\x50\x00\x00\x00\x00user\x00", "0.0.0.0", 80, b""),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01" + b"u" * 255 + b"\x00" + b"x" * 500, "127.0.0.1", 80, b"x" * 500),
        (b"\x04\x01\x01\xbb\x00\x00\x00\x01user\x00example.com\x00more", "example.com", 443, b"more"),
        (b"\x04\x01\x01\xbb\x00\x00\x00\xff\x00017700000001\x00", "127.0.0.1", 443, b""),
    ],
)
def test_a_connection_is_asked_for(data: bytes, host: str, port: int, rest: bytes) -> None:
    version = data[0]
    expected = (SocksRequest(version=version, host=host, port=port), ACCEPTED if version == 5 else b"", rest)
    assert outcome(data, []) == expected
    assert outcome(data, [1] * len(data)) == expected


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x00", b"\x05\xff"),
        (b"\x05\x02\x01\x80", b"\x05\xff"),
        (GREETING + by_name(b"example.com", command=2), b"\x05\x07"),
        (GREETING + by_name(b"example.com", command=3), b"\x05\x07"),
        (GREETING + by_name(b"example.com", command=0), b"\x05\x07"),
        (GREETING + b"\x05\x01\x00\x02abcdef", b"\x05\x08"),
        (GREETING + b"\x05\x01\x01\x01\x01\x01\x01\x01\x00\x50", b"\x05\x01"),
        (GREETING + b"\x04\x01\x00\x50\x01\x01\x01\x01\x00", b"\x05\x01"),
        (GREETING + by_name(b""), b"\x05\x01"),
        (GREETING + by_name(b"example.com", 0), b"\x05\x01"),
        (GREETING + by_name(b"a..b"), b"\x05\x01"),
        (GREETING + by_name(b"example.com\0.evil.com"), b"\x05\x01"),
        (GREETING + by_name(b"example.com\n"), b"\x05\x01"),
        (GREETING + by_name("m\u00fcnchen.de".encode()), b"\x05\x01"),
        (GREETING + by_name(b"fe80::1%lo"), b"\x05\x01"),
        (GREETING + by_name(b"example.com:443"), b"\x05\x01"),
        (GREETING + by_name(b"user@example.com"), b"\x05\x01"),
        (GREETING + by_name(b"a" * 255), b"\x05\x01"),
        (b"\x04\x02\x00\x50\x01\x01\x01\x01\x00", b"\x00\x5b"),
        (b"\x04\x01\x00\x00\x01\x01\x01\x01\x00", b"\x00\x5b"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00", b"\x00\x5b"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00a b\x00", b"\x00\x5b"),
        (b"\x04\x01\x00\x50\x01\x01\x01\x01" + b"u" * 300, b"\x00\x5b"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00" + b"a" * 300, b"\x00\x5b"),
        (b"GET ", b""),
        (b"\x16\x03\x01", b""),
    ],
)
def test_what_is_not_served_is_refused_in_words_that_the_client_knows(data: bytes, code: bytes) -> None:
    reason, sent = outcome(data, [])
    assert isinstance(reason, str) and isinstance(sent, bytes)
    assert sent.removeprefix(ACCEPTED if data.startswith(GREETING) else b"").startswith(code)
    assert outcome(data, [1] * len(data)) == (reason, sent)


def test_the_answer_tells_the_outcome_and_no_address() -> None:
    assert SocksRequest(version=5, host="a", port=1).render(Reply.SUCCEEDED) == b"\x05\x00\x00\x01" + bytes(6)
    assert SocksRequest(version=4, host="a", port=1).render(Reply.SUCCEEDED) == b"\x00\x5a" + bytes(6)
    assert [render_reply(5, reply)[1] for reply in Reply] == list(range(9))
    assert {render_reply(4, reply)[1] for reply in Reply} == {90, 91}


@settings(max_examples=400)
@given(
    st.sampled_from([b"", b"\x05", GREETING, GREETING + b"\x05\x01\x00\x03", b"\x04\x01\x00\x50\x00\x00\x00\x01"]),
    st.binary(max_size=40),
    st.lists(st.integers(0, 5), max_size=30),
)
def test_pieces_do_not_matter(start: bytes, more: bytes, sizes: list[int]) -> None:
    data = start + more
    at_once = outcome(data, [])
    assert outcome(data, [1] * len(data)) == at_once
    assert outcome(data, sizes) == at_once


def test_endless_input_fills_no_memory() -> None:
    tracemalloc.start()
    for start in (b"\x04\x01\x00\x50\x01\x01\x01\x01", b"\x04\x01\x00\x50\x00\x00\x00\x01\x00", GREETING + b"\x05\x01\x00\x03\xff"):
        reader = SocksReader()
        reader.feed(start)
        with pytest.raises(BadSocks):
            for _ in range(LIMIT):
                reader.feed(b"a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_a_hundred_thousand_requests_are_read_or_refused() -> None:
    source = random.Random(20261122)
    starts = [
        GREETING + by_name(b"example.com"),
        GREETING + b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50",
        b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
        b"\x04\x01\x01\xbb\x00\x00\x00\x01user\x00example.com\x00",
        GREETING + b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50",
    ]
    accepted = 0
    for number in range(100_000):
        data = mutated(source, starts[number % 5])
        found = outcome(data, [])
        accepted += len(found) == 3
        if number % 8 == 0:
            assert outcome(data, [1] * len(data)) == found, data
    assert accepted > 1000
