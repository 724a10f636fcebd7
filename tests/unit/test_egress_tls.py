"""The name in a ClientHello, as real clients send it and as hostile programs do."""

from __future__ import annotations

import random
import ssl
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated

from agentkernel.egress.tls import HELLO_LIMIT, STREAM_LIMIT, BadHello, ClientHello, ClientHelloReader


def real_hello(name: str | None, protocols: tuple[str, ...] = ()) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">H", kind) + vector(2, data)


def server_name(*names: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names)))


SNI = server_name(b"example.com")


def body(
    extensions: bytes | None,
    *,
    version: int = 0x0303,
    session: bytes = b"",
    suites: bytes = b"\x13\x01",
    compression: bytes = b"\0",
    more: bytes = b"",
) -> bytes:
    tail = b"" if extensions is None else vector(2, extensions)
    return struct.pack(">H", version) + bytes(32) + vector(1, session) + vector(2, suites) + vector(1, compression) + tail + more


def message(content: bytes, kind: int = 1) -> bytes:
    return bytes([kind]) + vector(3, content)


def records(data: bytes, size: int = 16384, kind: int = 22, version: int = 0x0301) -> bytes:
    return b"".join(struct.pack(">BH", kind, version) + vector(2, data[at : at + size]) for at in range(0, len(data), size))


def hello(extensions: bytes | None = SNI) -> bytes:
    return records(message(body(extensions)))


def outcome(data: bytes, sizes: list[int]) -> tuple[object, ...]:
    """What becomes of data that comes in pieces of those sizes; after a hello all of it is still there."""
    reader = ClientHelloReader()
    at = 0
    for size in [*sizes, len(data)]:
        try:
            found = reader.feed(data[at : at + size])
        except BadHello as error:
            assert str(error).isascii()
            return (str(error),)
        at += size
        assert reader.received == data[:at]
        if found is not None:
            return found, reader.received + data[at:]
    return ()


@pytest.mark.parametrize(
    ("name", "host"),
    [("example.com", "example.com"), ("EXAMPLE.com", "example.com"), ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"), (None, "")],
)
def test_the_name_that_openssl_sends_is_read(name: str | None, host: str) -> None:
    data = real_hello(name, ("h2", "http/1.1"))
    expected = (ClientHello(host=host, alpn=(b"h2", b"http/1.1"), encrypted=False), data + b"more")
    assert outcome(data + b"more", []) == expected
    assert outcome(data + b"more", [1] * len(data)) == expected
    assert outcome(data, [1] * (len(data) - 1))[0] == expected[0]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 40, 100])
def test_a_hello_in_fragments_is_put_together(size: int) -> None:
    data = records(real_hello("example.com")[5:], size)
    found = outcome(data, [])
    assert found == (ClientHello(host="example.com", alpn=(), encrypted=False), data)
    assert outcome(data, [1] * len(data)) == found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (hello(None), ClientHello(host="", alpn=(), encrypted=False)),
        (hello(b""), ClientHello(host="", alpn=(), encrypted=False)),
        (hello(SNI + extension(0xFE0D, b"\0" * 50)), ClientHello(host="example.com", alpn=(), encrypted=True)),
        (
            hello(extension(16, vector(2, vector(1, b"http/1.1"))) + SNI),
            ClientHello(host="example.com", alpn=(b"http/1.1",), encrypted=False),
        ),
        (hello(SNI + extension(0x0A0A, b"") + extension(21, bytes(500))), ClientHello(host="example.com", alpn=(), encrypted=False)),
        (hello(SNI) + records(b"early", kind=23), ClientHello(host="example.com", alpn=(), encrypted=False)),
    ],
)
def test_a_hello_is_read(data: bytes, expected: ClientHello) -> None:
    assert outcome(data, []) == (expected, data)
    assert outcome(data, [1] * len(data)) == (expected, data)


@pytest.mark.parametrize(
    "data",
    [
        hello(server_name(b"example.com", b"evil.com")), hello(server_name(b"example.com", b"example.com")), hello(SNI + SNI), hello(SNI + server_name(b"evil.com")),
        hello(extension(16, vector(2, vector(1, b"h2"))) * 2), hello(server_name()), hello(extension(0, b"")), hello(server_name(b"example.com", kind=1)), hello(server_name(b"")),
        hello(server_name(b"example.com\0")), hello(server_name(b"example.com\0.evil.com")), hello(server_name(b"example.com.")), hello(server_name(b"example..com")),
        hello(server_name(b"127.0.0.1")), hello(server_name(b"0x7f.1")), hello(server_name(b"::1")), hello(server_name(b"[::1]")), hello(server_name(b"*.example.com")),
        hello(server_name(b"example.com:443")), hello(server_name(b"a@example.com")), hello(server_name("m\u00fcnchen.de".encode())), hello(server_name(b"a" * 64 + b".com")),
        hello(server_name(b"a." * 200 + b"com")), hello(server_name(b"ex ample.com")), hello(server_name(b"xn--")),
        hello(extension(0, vector(2, b"\0" + vector(2, b"example.com")) + b"x")), hello(extension(0, vector(2, b"\0" + vector(2, b"example.com") + b"\0"))),
        hello(extension(0, b"\0\x20\0" + vector(2, b"example.com"))), hello(SNI[:-1]), hello(SNI + b"\0"), hello(SNI + b"\0\x10\0\x05x"),
        hello(SNI + extension(16, b"")), hello(SNI + extension(16, vector(2, b"\0"))), hello(SNI + extension(16, vector(2, b"\x05h2"))),
        records(message(body(SNI, more=b"x"))), records(message(body(SNI, version=0x0201))), records(message(body(SNI, session=b"x" * 33))), records(message(body(SNI, suites=b""))),
        records(message(body(SNI, suites=b"\x13\x01\x13"))), records(message(body(SNI, compression=b""))), records(message(body(SNI)[:-1])), records(message(body(SNI)[:20])),
        records(message(b"")), records(message(body(SNI), kind=2)), records(message(body(SNI)) + message(body(SNI))), records(message(body(SNI)) + b"\0"),
        records(message(body(SNI)), kind=23), records(message(body(SNI)), kind=21), records(message(body(SNI)), version=0x0201), b"\x16\x03\x01\0\0" + hello(), b"\x16\x03\x01\x40\x01",
        records(message(body(SNI)), 50)[:55] + records(b"\x01", kind=20), records(message(body(SNI)), 50)[:55] + b"\x16\x03\x01\0\0", b"\x80\x2e\x01\x03\x01", b"GET / HTTP/1.1\r\n", b"SSH-2.0", b"\0",
        records(b"\x01\xff\xff\xff" + bytes(100)), records(message(body(SNI + extension(21, bytes(HELLO_LIMIT))))), records(message(body(SNI + extension(21, bytes(HELLO_LIMIT - 200)))), 3),
    ],
)  # fmt: skip
def test_a_hello_that_two_servers_read_differently_is_refused(data: bytes) -> None:
    found = outcome(data, [])
    assert len(found) == 1 and isinstance(found[0], str), found
    assert outcome(data, [1] * len(data)) == found


def test_a_long_hello_that_fits_is_read() -> None:
    data = hello(SNI + extension(21, bytes(HELLO_LIMIT - 100)))
    assert HELLO_LIMIT - 100 < len(data) <= STREAM_LIMIT
    assert outcome(data, [])[0] == ClientHello(host="example.com", alpn=(), encrypted=False)


def test_endless_input_fills_no_memory() -> None:
    tracemalloc.start()
    for start, more in (
        (b"", b"\x16\x03\x01\0\x01\x01"),
        (b"\x16\x03\x01\x40\0\x01\0\x3f\xff", b"a" * 100),
        (b"", records(b"\x01\0\x40\0" + bytes(1000))[:5] + bytes(1004)),
    ):
        reader = ClientHelloReader()
        with pytest.raises(BadHello):
            reader.feed(start)
            for _ in range(1_000_000):
                reader.feed(more)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * STREAM_LIMIT


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 200), st.lists(st.integers(0, 40), max_size=30), st.integers(1, 50))
def test_pieces_do_not_matter(noise: bytes, at: int, sizes: list[int], record: int) -> None:
    content = message(body(SNI + extension(16, vector(2, vector(1, b"h2")))))
    data = records(content, record)
    data = data[:at] + noise + data[at + len(noise) // 2 :]
    at_once = outcome(data, [])
    assert outcome(data, [1] * len(data)) == at_once
    assert outcome(data, sizes) == at_once


def test_a_hundred_thousand_hellos_are_read_or_refused() -> None:
    source = random.Random(20261122)
    whole = message(body(SNI + extension(16, vector(2, vector(1, b"h2"))) + extension(43, b"\x02\x03\x04"), session=bytes(32)))
    starts = [records(whole), records(whole, 30), records(message(body(server_name(b"a.example.org")))), real_hello("example.com")]
    accepted = 0
    for number in range(100_000):
        data = mutated(source, starts[number & 3], most=2)
        found = outcome(data, [])
        if len(found) == 2:
            accepted += 1
            assert isinstance(found[0], ClientHello) and found[0].host == found[0].host.lower()
        if number % 64 == 0:
            assert outcome(data, [1] * len(data)) == found, data
    assert accepted > 1000
