"""DNS queries as hostile programs send them."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated

from agentkernel.egress.dns import AAAA, MAX_QUERY, A, BadQuery, Code, DnsStream, Query, over_tcp, parse_query

OPT = b"\0" + struct.pack(">HHBBHH", 41, 1232, 0, 0, 0x8000, 0)
SYNTHETIC = IPv4Address("198.18.0.7")


def name_of(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def query(
    name: bytes,
    kind: int = A,
    *,
    flags: int = 0x0120,
    counts: tuple[int, int, int, int] = (1, 0, 0, 0),
    network_class: int = 1,
    more: bytes = b"",
) -> bytes:
    return struct.pack(">6H", 0x1234, flags, *counts) + name + struct.pack(">HH", kind, network_class) + more


EXAMPLE = name_of(b"ExAmple", b"com")


def rcode(answer: bytes) -> int:
    return answer[3] & 15


class Answer:
    """An answer, as another program reads it."""

    def __init__(self, data: bytes) -> None:
        self.ident, self.flags, questions, answers, authorities, additional = struct.unpack_from(">6H", data)
        assert questions <= 1 and authorities == 0 and additional <= 1 and len(data) <= 512
        at = 12
        self.question = b""
        if questions:
            start = at
            while data[at]:
                assert data[at] < 64
                at += 1 + data[at]
            at += 5
            self.question = data[start:at]
        self.records: list[tuple[int, int, bytes]] = []
        for _ in range(answers):
            assert data[at : at + 2] == b"\xc0\x0c"
            kind, network_class, ttl, length = struct.unpack_from(">HHIH", data, at + 2)
            assert network_class == 1
            at += 12 + length
            self.records.append((kind, ttl, data[at - length : at]))
        self.option = data[at:]
        assert bool(self.option) == bool(additional)
        if self.option:
            assert self.option[:3] == b"\0\0\x29" and int.from_bytes(self.option[9:11], "big") == len(self.option) - 11


def test_a_question_is_read_and_answered() -> None:
    found = parse_query(query(EXAMPLE))
    assert (found.host, found.kind, found.extended) == ("example.com", A, False)
    answer = Answer(found.answer([SYNTHETIC, IPv6Address("::1")], 60))
    assert (answer.ident, answer.flags, answer.records, answer.option) == (0x1234, 0x8180, [(A, 60, SYNTHETIC.packed)], b"")
    assert answer.question == EXAMPLE + b"\0\1\0\1"  # in the letters that it came in
    six = Answer(parse_query(query(EXAMPLE, AAAA)).answer([SYNTHETIC], 60))
    assert (six.flags & 15, six.records) == (0, [])
    assert Answer(parse_query(query(EXAMPLE, AAAA)).answer([IPv6Address("2001:db8::1")], 1)).records == [
        (AAAA, 1, IPv6Address("2001:db8::1").packed)
    ]
    assert Answer(parse_query(query(EXAMPLE, 65)).answer([SYNTHETIC], 60)).records == []


def test_options_of_a_query_are_passed_over() -> None:
    cookie = OPT[:-2] + b"\0\x10\0\x0a\0\x08cookie78\0\x0c\0\0"
    found = parse_query(query(EXAMPLE, counts=(1, 0, 0, 1), more=cookie))
    assert found.extended and b"cookie" not in found.answer([SYNTHETIC], 60)


def test_a_refusal_says_why_to_clients_that_understand() -> None:
    plain = Answer(parse_query(query(EXAMPLE)).refuse(Code.REFUSED, "ask for it"))
    assert (plain.flags & 15, plain.option) == (5, b"")
    found = parse_query(query(EXAMPLE, counts=(1, 0, 0, 1), more=OPT))
    assert found.extended
    extended = Answer(found.refuse(Code.NO_SUCH_NAME, "ask for: agentkernel network allow NAME example.com"))
    assert extended.flags & 15 == 3 and extended.option[11:] == b"\0\x0f\0\x35\0\x12ask for: agentkernel network allow NAME example.com"
    assert Answer(found.refuse(text="ü" * 500)).option[11:][6:].decode() == "ü" * 90
    assert Answer(found.answer([SYNTHETIC] * 100, 5)).records == [(A, 5, SYNTHETIC.packed)] * 4


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (query(EXAMPLE, counts=(0, 0, 0, 0)), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(2, 0, 0, 0), more=EXAMPLE + b"\0\1\0\1"), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(0xFFFF, 0, 0, 0)), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(1, 1, 0, 0)), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(1, 0, 1, 0)), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(1, 0, 0, 2), more=OPT + OPT), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(1, 0, 0, 1)), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(1, 0, 0, 1), more=OPT[:-1]), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(1, 0, 0, 1), more=OPT + b"x"), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(1, 0, 0, 1), more=b"\xc0\x0c" + OPT[1:]), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(1, 0, 0, 1), more=b"\0" + struct.pack(">HHBBHH", 250, 255, 0, 0, 0, 0)), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(1, 0, 0, 1), more=OPT[:-2] + b"\0\4\0\x0a\0\x08"), Code.FORMAT_ERROR),
        (query(EXAMPLE, counts=(1, 0, 0, 1), more=OPT[:-2] + b"\0\2\0\x0a"), Code.FORMAT_ERROR),
        (query(EXAMPLE, more=b"trailing"), Code.FORMAT_ERROR),
        (query(b"\xc0\x0c"), Code.FORMAT_ERROR),  # points to itself
        (query(b"\x01a\xc0\x0c"), Code.FORMAT_ERROR),
        (query(b"\x40" + b"a" * 64 + b"\0"), Code.FORMAT_ERROR),
        (query(b"\x80a\0"), Code.FORMAT_ERROR),
        (query(name_of(*[b"a" * 63] * 4)), Code.FORMAT_ERROR),
        (query(name_of(*[b"a"] * 128)), Code.FORMAT_ERROR),
        (query(b"\x3fshort"), Code.FORMAT_ERROR),
        (query(EXAMPLE)[:-1], Code.FORMAT_ERROR),
        (query(EXAMPLE)[:20], Code.FORMAT_ERROR),
        (struct.pack(">6H", 1, 0, 1, 0, 0, 0), Code.FORMAT_ERROR),
        (query(EXAMPLE, flags=0x2800), Code.NOT_IMPLEMENTED),  # an update
        (query(EXAMPLE, flags=0x1000), Code.NOT_IMPLEMENTED),
        (query(EXAMPLE, network_class=3), Code.REFUSED),
        (query(EXAMPLE, network_class=255), Code.REFUSED),
        (query(EXAMPLE, counts=(1, 0, 0, 1), more=OPT[:6] + b"\1" + OPT[7:]), 0),  # BADVERS: 16, of which four bits are in the header
        (query(b"\0"), Code.NO_SUCH_NAME),
        (query(name_of(b"example.com")), Code.NO_SUCH_NAME),
        (query(name_of(b"www.example", b"com")), Code.NO_SUCH_NAME),
        (query(name_of(b"example", b"com\0")), Code.NO_SUCH_NAME),
        (query(name_of(b"exam\0ple", b"com")), Code.NO_SUCH_NAME),
        (query(name_of(b"exam ple", b"com")), Code.NO_SUCH_NAME),
        (query(name_of(b"a@b", b"com")), Code.NO_SUCH_NAME),
        (query(name_of("m\u00fcnchen".encode(), b"de")), Code.NO_SUCH_NAME),
        (query(name_of(b"xn--", b"de")), Code.NO_SUCH_NAME),
        (query(name_of(b"127", b"0", b"0", b"1")), Code.NO_SUCH_NAME),
        (query(name_of(b"0x7f000001")), Code.NO_SUCH_NAME),
        (query(name_of(b"::1")), Code.NO_SUCH_NAME),
        (query(name_of(b"a" * 63, b"a" * 63, b"a" * 63, b"a" * 58, b"1")), Code.NO_SUCH_NAME),
    ],
)
def test_what_is_no_plain_question_is_answered_by_its_code(message: bytes, code: int) -> None:
    with pytest.raises(BadQuery) as caught:
        parse_query(message)
    answer = Answer(caught.value.answer)
    assert answer.flags & 0x8000 and rcode(caught.value.answer) == code and not answer.records and caught.value.reason.isascii()
    assert answer.ident == int.from_bytes(message[:2], "big")


@pytest.mark.parametrize("message", [b"", b"\0" * 11, query(EXAMPLE) + b"\0" * MAX_QUERY, query(EXAMPLE, flags=0x8180)])
def test_what_is_no_query_at_all_is_not_answered(message: bytes) -> None:
    with pytest.raises(BadQuery) as caught:
        parse_query(message)
    assert caught.value.answer == b""


def test_the_longest_name_is_read() -> None:
    labels = [b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61]
    assert parse_query(query(name_of(*labels))).host == b".".join(labels).decode()


def split(data: bytes, sizes: list[int]) -> tuple[list[bytes], bool]:
    """The messages of a TCP stream that comes in pieces of those sizes, and whether it broke."""
    stream = DnsStream()
    messages: list[bytes] = []
    at = 0
    for size in [*sizes, len(data)]:
        try:
            messages.extend(stream.feed(data[at : at + size]))
        except BadQuery:
            return messages, True
        at += size
    return messages, False


@settings(max_examples=300)
@given(st.lists(st.binary(min_size=12, max_size=40), max_size=5), st.binary(max_size=20), st.lists(st.integers(0, 30), max_size=30))
def test_messages_of_a_stream_come_out_whole_whatever_the_pieces(messages: list[bytes], more: bytes, sizes: list[int]) -> None:
    data = b"".join(map(over_tcp, messages)) + more
    at_once = split(data, [])
    assert at_once[0][: len(messages)] == messages
    assert split(data, sizes)[0] == at_once[0][: len(split(data, sizes)[0])]
    assert split(data, [1] * len(data)) == at_once


def test_a_stream_holds_one_message_at_most() -> None:
    assert split(over_tcp(b"x" * MAX_QUERY), []) == ([b"x" * MAX_QUERY], False)
    assert split(over_tcp(b"x" * (MAX_QUERY + 1)), []) == ([], True)
    assert split(over_tcp(b"x" * 11), []) == ([], True)
    assert split(over_tcp(query(EXAMPLE)) + b"\xff\xff", []) == ([query(EXAMPLE)], True)


labels = st.lists(st.from_regex(rb"[A-Za-z0-9_]([A-Za-z0-9_-]{0,8}[A-Za-z0-9_])?", fullmatch=True), min_size=1, max_size=6)


@settings(max_examples=300)
@given(labels, st.integers(0, 0xFFFF), st.booleans(), st.lists(st.ip_addresses(), max_size=6), st.integers(0, 2**31))
def test_every_answer_is_read_by_an_independent_parser(
    names: list[bytes], kind: int, extended: bool, addresses: list[IPv4Address | IPv6Address], ttl_s: int
) -> None:
    message = query(name_of(*names), kind, counts=(1, 0, 0, int(extended)), more=OPT if extended else b"")
    try:
        found = parse_query(message)
    except BadQuery as error:
        assert rcode(error.answer) == Code.NO_SUCH_NAME
        return
    assert found.host == b".".join(names).decode().lower()
    answer = Answer(found.answer(addresses, ttl_s))
    assert bool(answer.option) == extended and answer.question == name_of(*names) + struct.pack(">HH", kind, 1)
    wanted = {A: 4, AAAA: 6}.get(kind)
    assert [str(ip_address(data)) for _, _, data in answer.records] == [str(each) for each in addresses if each.version == wanted][:4]


def test_a_hundred_thousand_messages_are_read_or_refused() -> None:
    source = random.Random(20261122)
    starts = [
        query(EXAMPLE),
        query(EXAMPLE, AAAA, counts=(1, 0, 0, 1), more=OPT),
        query(name_of(b"xn--mnchen-3ya", b"de"), 65),
        query(EXAMPLE, counts=(1, 0, 0, 1), more=OPT[:-2] + b"\0\x0c\0\x0a\0\x08cookie78"),
    ]
    accepted = 0
    for number in range(100_000):
        data = mutated(source, starts[number & 3], byte=lambda: source.choice((0, 0xFF, 0xC0, 0x3F, 0x40, source.randrange(256))))
        try:
            found: Query = parse_query(data)
        except BadQuery as error:
            if error.answer:
                Answer(error.answer)
            continue
        accepted += 1
        Answer(found.answer([SYNTHETIC], 60))
        Answer(found.refuse(text="no"))
    assert accepted > 1000
