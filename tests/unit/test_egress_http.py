"""HTTP as hostile programs speak it: one meaning or none, whatever the pieces it comes in, and what goes on means the same to others."""

from __future__ import annotations

import errno
import http.client
import http.server
import io
import json
import random
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkernel.egress.attempt import Attempt, RefusedError, failed
from agentkernel.egress.http import Origin, Request, RequestReader, parse_authority, render_connect
from agentkernel.egress.http_body import LINE_LIMIT, BodyReader, Framing, Kind, framed, last_piece
from agentkernel.egress.http_fields import HEAD_LIMIT, BadMessage
from agentkernel.egress.http_refusal import ask_for, render_refusal, render_refused
from agentkernel.egress.http_response import Response, ResponseReader
from agentkernel.policy.egress import Told

SEED = 20261122
ORIGIN = Origin("example.com", 443, 443)


def request(data: bytes, origin: Origin | None = None) -> Request:
    found = RequestReader(origin).feed(data)
    assert found is not None
    return found


def status_of(data: bytes, origin: Origin | None = None) -> int:
    """What is answered to a request that is refused; 0 where it is none yet."""
    try:
        assert RequestReader(origin).feed(data) is None
    except BadMessage as error:
        assert error.reason and error.reason.isascii()
        return error.status
    return 0


def get(*fields: str, line: str = "GET http://example.com/a HTTP/1.1", host: str | None = "Host: example.com") -> bytes:
    return "\r\n".join((line, *([host] if host else []), *fields, "", "")).encode("latin-1")


# Requests ---------------------------------------------------------------------------------------------------------------------------


def test_a_request_of_a_proxys_client_is_written_anew_for_the_server() -> None:
    found = request(
        get(
            "User-Agent: curl/8",
            "Accept: */*",
            "Proxy-Connection: Keep-Alive",
            "Proxy-Authorization: Basic eA==",
            "Connection: keep-alive, X-Hop",
            "X-Hop: 1",
            "TE: trailers",
            "Upgrade: h2c",
            "HTTP2-Settings: x",
            line="GET http://Example.COM:80/a/b?c=d HTTP/1.1",
        )
    )
    assert (found.method, found.host, found.port, found.target, found.keep_alive) == ("GET", "example.com", 80, "/a/b?c=d", True)
    assert found.render() == b"GET /a/b?c=d HTTP/1.1\r\nHost: example.com\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n"
    assert found.render(close=True).endswith(b"Accept: */*\r\nConnection: close\r\n\r\n")
    assert found.render(absolute=True).startswith(b"GET http://example.com/a/b?c=d HTTP/1.1\r\nHost: example.com\r\n")
    assert b"\r\nX-For-Proxy: 1\r\n" in found.render(absolute=True, more=((b"X-For-Proxy", b"1"),))


@pytest.mark.parametrize(
    ("line", "host", "expected"),
    [
        ("GET http://example.com HTTP/1.1", "example.com", ("example.com", 80, "/")),
        ("GET http://example.com?x HTTP/1.1", "example.com:80", ("example.com", 80, "/?x")),
        ("GET HTTP://EXAMPLE.com./a HTTP/1.1", "example.com", ("example.com", 80, "/a")),
        ("GET http://example.com:8080/ HTTP/1.1", "example.com:8080", ("example.com", 8080, "/")),
        ("OPTIONS http://example.com HTTP/1.1", "example.com", ("example.com", 80, "*")),
        ("GET http://[::1]:81/ HTTP/1.1", "[::1]:81", ("::1", 81, "/")),
        ("GET http://0x7f.1/ HTTP/1.1", "127.0.0.1", ("127.0.0.1", 80, "/")),
        ("GET http://[::ffff:169.254.169.254]/ HTTP/1.1", "169.254.169.254", ("169.254.169.254", 80, "/")),
        ("GET http://2130706433/ HTTP/1.1", "017700000001", ("127.0.0.1", 80, "/")),
        ("CONNECT example.com:443 HTTP/1.1", "example.com:443", ("example.com", 443, "")),
        ("CONNECT EXAMPLE.com:443 HTTP/1.1", "example.com", ("example.com", 443, "")),
        ("CONNECT 127.1:22 HTTP/1.1", "127.0.0.1:22", ("127.0.0.1", 22, "")),
        ("CONNECT [::1]:443 HTTP/1.1", "[::1]:443", ("::1", 443, "")),
        ("GET http://example.com//evil.com/../x\\y HTTP/1.1", "example.com", ("example.com", 80, "//evil.com/../x\\y")),
    ],
)
def test_a_destination_is_understood(line: str, host: str, expected: tuple[str, int, str]) -> None:
    found = request(get(line=line, host=f"Host: {host}"))
    assert (found.host, found.port, found.target) == expected


REFUSED_LINES = {
    "GET /a HTTP/1.1": 400,
    "GET example.com/a HTTP/1.1": 400,
    "GET https://example.com/a HTTP/1.1": 400,
    "GET ftp://example.com/a HTTP/1.1": 400,
    "GET http:example.com/a HTTP/1.1": 400,
    "GET http:/example.com HTTP/1.1": 400,
    "GET http:// HTTP/1.1": 400,
    "GET http:///a HTTP/1.1": 400,
    "GET http://user@example.com/a HTTP/1.1": 400,
    "GET http://user:pw@example.com/a HTTP/1.1": 400,
    "GET http://evil.com\\@example.com/ HTTP/1.1": 400,
    "GET http://example.com%2eevil.com/ HTTP/1.1": 400,
    "GET http://example%00.com/ HTTP/1.1": 400,
    "GET http://example.com:/ HTTP/1.1": 400,
    "GET http://example.com:0/ HTTP/1.1": 400,
    "GET http://example.com:080/ HTTP/1.1": 400,
    "GET http://example.com:65536/ HTTP/1.1": 400,
    "GET http://example.com:99999999/ HTTP/1.1": 400,
    "GET http://example.com:80:80/ HTTP/1.1": 400,
    "GET http://[::1%25lo]/ HTTP/1.1": 400,
    "GET http://[fe80::1%eth0]/ HTTP/1.1": 400,
    "GET http://[::1/ HTTP/1.1": 400,
    "GET http://::1/ HTTP/1.1": 400,
    "GET http://a..b/ HTTP/1.1": 400,
    "GET http://1.2.3.4.5/ HTTP/1.1": 400,
    "GET http://" + "a" * 64 + ".com/ HTTP/1.1": 400,
    "GET http://example.com/#f HTTP/1.1": 400,
    "GET http://example.com#@evil.com/ HTTP/1.1": 400,
    "GET http://m\xfcnchen.de/ HTTP/1.1": 400,
    "GET http://example.com/\xe9 HTTP/1.1": 400,
    "GET http://example.com/a b HTTP/1.1": 400,
    "GET  http://example.com/ HTTP/1.1": 400,
    "GET http://example.com/  HTTP/1.1": 400,
    "GET\thttp://example.com/ HTTP/1.1": 400,
    "GET http://example.com/ HTTP/1.1 ": 400,
    " GET http://example.com/ HTTP/1.1": 400,
    "get http://example.com/ HTTP/1.1": 400,
    "GET http://example.com/": 400,  # HTTP/0.9
    "GET http://example.com/ HTTP/1.": 400,
    "GET http://example.com/ HTTP/1.10": 400,
    "GET http://example.com/ HTTP/01.1": 400,
    "GET http://example.com/ http/1.1": 400,
    "GET http://example.com/ HTTP/1.2": 505,
    "GET http://example.com/ HTTP/2.0": 505,
    "PRI * HTTP/2.0": 505,
    "TRACE http://example.com/ HTTP/1.1": 405,
    "OPTIONS * HTTP/1.1": 400,
    "CONNECT example.com HTTP/1.1": 400,
    "CONNECT example.com: HTTP/1.1": 400,
    "CONNECT example.com:0 HTTP/1.1": 400,
    "CONNECT example.com:443/ HTTP/1.1": 400,
    "CONNECT http://example.com:443 HTTP/1.1": 400,
    "CONNECT user@example.com:443 HTTP/1.1": 400,
    "CONNECT :443 HTTP/1.1": 400,
    "CONNECT / HTTP/1.1": 400,
    "CONNECT other.com:443 HTTP/1.1": 400,
    "CONNECT example.com:443,evil.com:443 HTTP/1.1": 400,
}


@pytest.mark.parametrize(("line", "status"), REFUSED_LINES.items())
def test_a_request_line_that_could_mean_another_thing_is_refused(line: str, status: int) -> None:
    assert status_of(get(line=line)) == status


REFUSED_FIELDS = (
    ("Host: example.com",),
    ("HOST: evil.com",),
    ("Host : evil.com",),
    ("Content-Length: 5", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: chunked", "Content-Length: 0"),
    ("Content-Length: 5", "Content-Length: 5"),
    ("Content-Length: 5, 5",),
    ("Content-Length: +5",),
    ("Content-Length: -5",),
    ("Content-Length: 0x5",),
    ("Content-Length: 05",),
    ("Content-Length: 5 5",),
    ("Content-Length: 5;",),
    ("Content-Length:",),
    ("Content-Length: 1_0",),
    ("Content-Length: \xb2",),
    ("Content-Length: 9999999999999999999999",),
    ("Content-Length : 5",),
    ("Content-Length\t: 5",),
    ("Content_Length: 5",),
    ("Transfer_Encoding: chunked",),
    ("Transfer-Encoding- : chunked",),
    ("-Transfer-Encoding: chunked",),
    ("Transfer-Encoding : chunked",),
    ("Transfer-Encoding: \x0bchunked",),
    ("Transfer-Encoding: chunked, chunked",),
    ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    ("Transfer-Encoding: chunked, identity",),
    ("Transfer-Encoding: identity",),
    ("Transfer-Encoding: gzip, chunked",),
    ("Transfer-Encoding: xchunked",),
    ('Transfer-Encoding: "chunked"',),
    ("Transfer-Encoding:",),
    ("Transfer-Encoding: chunked;q=1",),
    ("X: a", " folded: b"),
    ("X: a", "\tfolded"),
    ("X: a\rb: c",),
    ("X: a\nContent-Length: 5",),
    ("X: a\0b",),
    ("X: a\x7f",),
    (": empty",),
    ("no colon",),
    ("N\xe4me: x",),
    ("Na me: x",),
    ("Name(: x",),
    ("Connection: close, content-length",),
    ("Connection: Host",),
    ("Connection: transfer-encoding",),
    ("Connection: a b",),
    ("Connection: keep-alive;x",),
)


@pytest.mark.parametrize("fields", REFUSED_FIELDS)
def test_a_head_that_two_servers_read_differently_is_refused(fields: tuple[str, ...]) -> None:
    assert status_of(get(*fields, line="POST http://example.com/a HTTP/1.1")) in (400, 501)


@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("GET http://example.com/ HTTP/1.1", None),
        ("GET http://example.com/ HTTP/1.1", "Host:"),
        ("GET http://example.com/ HTTP/1.1", "Host: evil.com"),
        ("GET http://example.com/ HTTP/1.1", "Host: example.com:8080"),
        ("GET http://example.com:8080/ HTTP/1.1", "Host: example.com"),
        ("GET http://example.com/ HTTP/1.1", "Host: example.com, evil.com"),
        ("GET http://example.com/ HTTP/1.1", "Host: user@example.com"),
        ("GET http://example.com/ HTTP/1.1", "Host: example.com/"),
        ("GET http://example.com/ HTTP/1.1", "Host: ex\xe4mple.com"),
        ("GET http://example.com/ HTTP/1.0", "Host: evil.com"),
        ("CONNECT example.com:443 HTTP/1.1", "Host: evil.com:443"),
        ("CONNECT example.com:443 HTTP/1.1", "Host: example.com:80"),
        ("CONNECT example.com:443 HTTP/1.1", None),
    ],
)
def test_host_has_to_agree_with_the_destination(line: str, host: str | None) -> None:
    assert status_of(get(line=line, host=host)) == 400


def test_http_1_0_needs_no_host_and_is_one_request() -> None:
    found = request(get(line="GET http://example.com/ HTTP/1.0", host=None))
    assert not found.keep_alive and found.render() == b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
    assert request(get(line="CONNECT example.com:22 HTTP/1.0", host=None)).is_connect
    assert status_of(get("Transfer-Encoding: chunked", line="POST http://example.com/ HTTP/1.0")) == 400


def test_connect_has_no_body_and_leaves_what_follows_alone() -> None:
    line = "CONNECT example.com:443 HTTP/1.1"
    assert status_of(get("Content-Length: 5", line=line) + b"hello") == 400
    assert status_of(get("Transfer-Encoding: chunked", line=line)) == 400
    reader = RequestReader()
    found = reader.feed(get("Content-Length: 0", line=line) + b"\x16\x03\x01")
    assert found is not None and found.is_connect and reader.rest == b"\x16\x03\x01"


def test_requests_that_come_at_once_are_read_one_by_one() -> None:
    first, second = get("Content-Length: 3", line="POST http://example.com/1 HTTP/1.1"), get(line="GET http://example.com/2 HTTP/1.1")
    reader = RequestReader()
    found = reader.feed(first + b"abc" + second)
    assert found is not None and found.target == "/1" and found.framing == (Kind.LENGTH, 3)
    body = BodyReader(found.framing)
    assert [bytes(piece) for piece in body.feed(reader.rest)] == [b"abc"]
    assert request(body.rest).target == "/2"


def test_where_the_origin_is_known_the_request_names_a_path_and_the_same_host() -> None:
    found = request(get(line="GET /a?b HTTP/1.1"), ORIGIN)
    assert (found.host, found.port, found.target) == ("example.com", 443, "/a?b")
    assert found.render() == b"GET /a?b HTTP/1.1\r\nHost: example.com\r\n\r\n"
    assert request(get(line="GET / HTTP/1.1", host="Host: EXAMPLE.com:443"), ORIGIN).host == "example.com"
    assert request(get(line="OPTIONS * HTTP/1.1"), ORIGIN).target == "*"
    assert request(get(line="GET / HTTP/1.0", host=None), ORIGIN).host == "example.com"
    assert status_of(get(line="GET / HTTP/1.1", host="Host: evil.com"), ORIGIN) == 421
    assert status_of(get(line="GET / HTTP/1.1", host="Host: example.com:80"), ORIGIN) == 421
    assert status_of(get(line="GET https://example.com/ HTTP/1.1"), ORIGIN) == 400
    assert status_of(get(line="GET http://example.com/ HTTP/1.1"), ORIGIN) == 400
    assert status_of(get(line="GET /#x HTTP/1.1"), ORIGIN) == 400
    assert status_of(get(line="GET * HTTP/1.1"), ORIGIN) == 400
    assert status_of(get(line="CONNECT example.com:443 HTTP/1.1"), ORIGIN) == 405
    unnamed = Origin("", 80)
    assert request(get(line="GET / HTTP/1.1", host="Host: some.where"), unnamed).host == "some.where"
    assert status_of(get(line="GET / HTTP/1.1", host="Host: some.where:81"), unnamed) == 421
    assert status_of(get(line="GET / HTTP/1.0", host=None), unnamed) == 400
    assert status_of(get(line="GET / HTTP/1.1", host="Host: m\xfcnchen.de"), unnamed) == 400


def test_only_a_websocket_is_an_upgrade() -> None:
    fields = ("Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Key: x")
    found = request(get(*fields))
    assert found.upgrade and found.render().endswith(b"Sec-WebSocket-Key: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    for other in (
        ("Connection: Upgrade", "Upgrade: h2c"),
        ("Upgrade: websocket",),
        ("Connection: upgrade", "Upgrade: websocket, h2c"),
        ("Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"),
        (*fields, "Content-Length: 5"),
    ):
        plain = request(get(*other))
        assert not plain.upgrade and b"pgrade" not in plain.render()


def test_values_are_replaced_and_cannot_become_other_fields() -> None:
    found = request(get("Authorization: Bearer PLACEHOLDER", "X-Other: PLACEHOLDER"))
    changed = found.with_values(lambda name, value: value.replace(b"PLACEHOLDER", b"s3cret") if name == b"authorization" else value)
    assert changed.render() == b"GET /a HTTP/1.1\r\nHost: example.com\r\nAuthorization: Bearer s3cret\r\nX-Other: PLACEHOLDER\r\n\r\n"
    for value in (b"a\r\nX: y", b"a\nb", b"a\0", b" a", b"a ", b"\x7f"):
        with pytest.raises(ValueError, match="no field value") as caught:
            found.with_values(lambda _name, _value, new=value: new)
        assert value.decode("latin-1") not in str(caught.value) or not value.strip()
    assert "s3cret" not in repr(changed)


def test_a_client_may_wait_before_it_sends_a_body() -> None:
    assert request(get("Expect: 100-Continue", "Content-Length: 1")).awaits_continue
    assert not request(get()).awaits_continue


def test_a_head_is_bounded() -> None:
    fitting = get("X: " + "a" * (HEAD_LIMIT - len(get("X: "))))
    assert len(fitting) == HEAD_LIMIT and request(fitting).method == "GET"
    for data in (get("X: " + "a" * (HEAD_LIMIT - len(get("X: ")) + 1)), b"GET " + b"a" * HEAD_LIMIT, get("X: " + "a" * HEAD_LIMIT)[:-1]):
        assert status_of(data) == 431
        assert outcome(data, [1000] * 100)[0] == 431
    assert status_of(get(*(f"X{number}: y" for number in range(300)))) == 431


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01",
        b"\x05\x01\x00",
        b"\r\n",
        b"\n",
        b"get",
        b"\0",
        b"GET /\n",
        b"GET / HTTP/2.0\r\n",
        b"SSH-2.0-x\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: a\n",
    ],
)
def test_what_will_never_be_a_request_is_refused_before_more_comes(data: bytes) -> None:
    assert status_of(data) in (400, 505)


@pytest.mark.timeout(30)  # each takes seconds where a pattern tries every way to divide a run of spaces
def test_no_head_is_slow_to_refuse() -> None:
    runs = [
        b"X:" + b" " * 32000 + b"\0",
        b"X: a" + b" \t" * 16000 + b"\x7f",
        b"a" * 32000,
        b":" * 32000,
        b"X:" + b"\t" * 32000 + b"\r",
        b"Connection: a" + b" ,a" * 10000 + b" \xff",
    ]
    for run in runs * 10:
        assert status_of(get(run.decode("latin-1"))) == 400


def outcome(data: bytes, sizes: list[int], origin: Origin | None = None) -> tuple[object, ...]:
    """What becomes of data that comes in pieces of those sizes: status, or request and all that was left."""
    reader = RequestReader(origin)
    at = 0
    for size in [*sizes, len(data)]:
        try:
            found = reader.feed(data[at : at + size])
        except BadMessage as error:
            return (error.status,)
        at += size
        if found is not None:
            return found, reader.rest + data[at:]
    return ()


PIECES = [
    b"GET ", b"POST ", b"CONNECT ", b"http://example.com", b"example.com:443", b"/a", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"Host: example.com\r\n",
    b"Host: evil.com\r\n", b"Content-Length: 5\r\n", b"Content-Length: 6\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:", b" ", b"\t", b"\0", b"\x80", b"X: y\r\n", b":", b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"5\r\nhello\r\n0\r\n\r\n",
]  # fmt: skip
heads = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=14).map(b"".join)
good_starts = st.sampled_from(
    [
        b"",
        b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n",
        b"POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n",
    ]
)


@settings(max_examples=500)
@given(good_starts, heads, st.lists(st.integers(0, 9), max_size=60))
def test_pieces_do_not_matter(start: bytes, more: bytes, sizes: list[int]) -> None:
    data = start + more
    at_once = outcome(data, [])
    assert outcome(data, [1] * len(data)) == at_once
    assert outcome(data, sizes) == at_once


class Server(http.server.BaseHTTPRequestHandler):
    """The standard library's reading of a request."""

    def __init__(self, data: bytes) -> None:
        self.rfile = io.BytesIO(data)
        self.wfile = io.BytesIO()
        self.close_connection = True
        self.raw_requestline = self.rfile.readline(65537)
        self.understood = self.parse_request()

    def log_message(self, format: str, *args: object) -> None:
        return


def check_forwarded(found: Request) -> None:
    """What goes on is read alike by an independent parser."""
    if found.is_connect:
        data = render_connect(found.host, found.port)
        server = Server(data)
        assert server.understood and server.path == server.headers["Host"] and parse_authority(server.path) == (found.host, found.port)
        return
    for close in (False, True):
        data = found.render(close=close)
        assert data.endswith(b"\r\n\r\n") and data.count(b"\r\n\r\n") == 1 and data.count(b"\n") == data.count(b"\r\n") == data.count(b"\r")
        server = Server(data)
        assert server.understood and server.rfile.read() == b"" and server.command == found.method
        assert server.path == (found.target if not found.target.startswith("//") else "/" + found.target.lstrip("/"))
        assert len(server.headers.get_all("Host", [])) == 1 and parse_authority(server.headers["Host"], found.scheme_port) == (
            found.host,
            found.port,
        )
        lengths, codings = server.headers.get_all("Content-Length", []), server.headers.get_all("Transfer-Encoding", [])
        assert [int(length) for length in lengths] == ([found.framing.length] if found.framing.kind is Kind.LENGTH else [])
        assert codings == (["chunked"] if found.framing.kind is Kind.CHUNKED else [])
        assert len(server.headers) == data.count(b"\r\n") - 2
        again = request(data, Origin(found.host, found.port, found.scheme_port))
        assert (again.target, again.fields, again.framing, again.upgrade) == (found.target, found.fields, found.framing, found.upgrade)


names = st.from_regex(r"[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,12}", fullmatch=True)
field_values = st.text(
    alphabet=st.characters(codec="latin-1", exclude_characters="".join(map(chr, [*range(32), *range(127, 160)]))), max_size=20
).map(str.strip)


@settings(max_examples=300)
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "M-SEARCH"]),
    st.from_regex(r"(/[!-\"$-~]{0,20})?", fullmatch=True),
    st.lists(st.tuples(names, field_values), max_size=8),
    st.sampled_from(["", "Content-Length: 7", "Transfer-Encoding: CHUNKED \t"]),
    st.booleans(),
)
def test_what_is_forwarded_means_the_same_to_an_independent_parser(
    method: str, path: str, fields: list[tuple[str, str]], framing: str, known: bool
) -> None:
    lines = [f"{name}: {value}" for name, value in fields] + ([framing] if framing else [])
    line = f"{method} {path or '/'} HTTP/1.1" if known else f"{method} http://example.com{path} HTTP/1.1"
    try:
        found = request(get(*lines, line=line, host="Host: example.com"), Origin("example.com", 80) if known else None)
    except BadMessage:
        return
    check_forwarded(found)


def mutated(source: random.Random, data: bytes) -> bytes:
    at = source.randrange(len(data) + 1)
    match source.randrange(5):
        case 0:
            return data[:at] + bytes([source.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + source.choice(PIECES) + data[at:]
        case 3:
            return data[:at] + data[source.randrange(len(data) + 1) :]
        case _:
            return data[:at] + source.choice([b"\r", b"\n", b" ", b"\t", b"\0", b":", b",", b"\x0b", b"\xff", b"\r\n "]) + data[at:]


def test_a_hundred_thousand_requests_mean_one_thing_or_are_refused() -> None:
    source = random.Random(SEED)
    starts = [
        (get("Content-Length: 5", "X: y", line="POST http://example.com/a?b HTTP/1.1") + b"hello", None),
        (get("Transfer-Encoding: chunked", line="POST http://example.com/a HTTP/1.1") + b"0\r\n\r\n", None),
        (get("Proxy-Connection: keep-alive", line="CONNECT example.com:443 HTTP/1.1"), None),
        (get("Connection: Upgrade", "Upgrade: websocket", line="GET /chat HTTP/1.1"), Origin("example.com", 80)),
    ]
    accepted = 0
    began = time.process_time()
    for number in range(100_000):
        data, origin = starts[number & 3]
        for _ in range(source.randrange(1, 4)):
            data = mutated(source, data)
        at_once = outcome(data, [], origin)
        if len(at_once) == 2:
            accepted += 1
            if accepted % 16 == 0:
                check_forwarded(at_once[0])  # type: ignore[arg-type]
        if number % 16 == 0:
            assert outcome(data, [1] * len(data), origin) == at_once, data
    assert accepted > 1000
    print(f"{accepted} accepted, {time.process_time() - began:.1f} s")


# Bodies -----------------------------------------------------------------------------------------------------------------------------


def body(framing: Framing, data: bytes, sizes: list[int]) -> tuple[bytes, bool, bytes] | None:
    """Payload, whether it is done, and what follows; None where the framing is broken."""
    reader = BodyReader(framing)
    payload = b""
    at = 0
    for size in [*sizes, len(data)]:
        try:
            payload += b"".join(reader.feed(data[at : at + size]))
        except BadMessage:
            return None
        at += size
    return payload, reader.done, reader.rest


CHUNKED = Framing(Kind.CHUNKED)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"5\r\nhello\r\n0\r\n\r\n", (b"hello", True, b"")),
        (b"5\r\nhello\r\n0\r\n\r\nGET", (b"hello", True, b"GET")),
        (b'A;ext=1;x="y"\r\n0123456789\r\n000\r\nTrailer: x\r\n\r\n', (b"0123456789", True, b"")),
        (b"5\r\nhel", (b"hel", False, b"")),
        (b"", (b"", False, b"")),
        (b"5\r\nhello\r\n0\r\n", (b"hello", False, b"")),
        (b"0\r\n\r\n\r\n", (b"", True, b"\r\n")),
    ],
)
def test_chunks_are_taken_apart(data: bytes, expected: tuple[bytes, bool, bytes]) -> None:
    assert body(CHUNKED, data, []) == expected
    assert body(CHUNKED, data, [1] * len(data)) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"5\nhello\n0\n\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhello!\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\r\r\n", b"0x5\r\nhello\r\n", b"+5\r\n", b"-1\r\n", b" 5\r\n", b"5 \r\n",
        b"5 ;x\r\n", b"\r\n", b";x\r\n", b"G\r\n", b"5_0\r\n", b"1234567890123456\r\n", b"5;a\rb\r\n", b"5;a\0\r\n", b"0\r\nContent-Length : 5\r\n\r\n", b"0\r\n folded\r\n\r\n", b"0\r\nno field\r\n\r\n",
        b"5;" + b"x" * 1024 + b"\r\n", b"x" * 2000, b"0\r\nX: " + b"y" * 9000 + b"\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 2000 + b"\r\n", b"0\r\n" + b"X:\r\n" * 300 + b"\r\n", b"0\r\n\n",
        b"1;" + b"x" * 900 + b"\r\na\r\n" + (b"1;" + b"x" * 900 + b"\r\na\r\n") * 20,
    ],
)  # fmt: skip
def test_broken_chunks_are_refused(data: bytes) -> None:
    assert body(CHUNKED, data, []) is None
    assert body(CHUNKED, data, [1] * len(data)) is None


def test_a_line_that_is_too_long_is_refused_wherever_it_is_divided() -> None:
    data = b"1;" + b"x" * LINE_LIMIT + b"\r\n"
    assert all(body(CHUNKED, data, [at]) is None for at in range(len(data)))
    fitting = b"1;" + b"x" * (LINE_LIMIT - 4) + b"\r\n"
    assert all(body(CHUNKED, fitting, [at]) == (b"", False, b"") for at in range(len(fitting)))


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 7), max_size=40), st.binary(max_size=5))
def test_a_body_survives_every_change_of_its_framing(parts: list[bytes], sizes: list[int], after: bytes) -> None:
    sent = b"".join(bytes(framed(Kind.CHUNKED, part)) for part in parts) + last_piece(Kind.CHUNKED)
    assert body(CHUNKED, sent + after, sizes) == (b"".join(parts), True, after)
    length = len(b"".join(parts))
    assert body(Framing(Kind.LENGTH, length), b"".join(parts) + after, sizes) == (b"".join(parts), True, after)
    assert body(Framing(Kind.CLOSE), b"".join(parts), sizes) == (b"".join(parts), False, b"")
    assert body(Framing(Kind.NONE), after, sizes) == (b"", True, after)


class Sock:
    """A socket to read an answer from."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


def test_what_is_framed_anew_is_read_by_an_independent_parser() -> None:
    reader = BodyReader(CHUNKED)
    pieces = [
        piece for part in (b"3;x\r\nab", b"c\r\n1", b"0\r\n", b"0123456789abcdef\r", b"\n0\r\nT: x\r\n\r\n") for piece in reader.feed(part)
    ]
    sent = b"".join(bytes(framed(Kind.CHUNKED, piece)) for piece in pieces) + last_piece(Kind.CHUNKED)
    response = http.client.HTTPResponse(Sock(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + sent))  # type: ignore[arg-type]
    response.begin()
    assert response.read() == b"abc0123456789abcdef" and reader.done


def test_a_body_that_is_cut_off_is_noticed() -> None:
    for framing in (Framing(Kind.LENGTH, 5), CHUNKED):
        reader = BodyReader(framing)
        reader.feed(b"1\r\n")
        with pytest.raises(BadMessage):
            reader.end()
    whole = BodyReader(Framing(Kind.LENGTH, 1))
    whole.feed(b"xy")
    whole.end()
    assert whole.rest == b"y"
    until_close = BodyReader(Framing(Kind.CLOSE))
    until_close.feed(b"x")
    until_close.end()
    assert until_close.done


def test_a_hundred_thousand_chunked_bodies_are_read_or_refused() -> None:
    source = random.Random(SEED)
    start = b"5\r\nhello\r\n1f;ext=x\r\n0123456789012345678901234567890\r\n0\r\nTrailer: x\r\n\r\n"
    read = 0
    for number in range(100_000):
        data = mutated(source, start)
        if source.random() < 0.3:
            data = mutated(source, data)
        found = body(CHUNKED, data, [])
        if found is not None:
            read += found[1]
            assert len(found[0]) <= len(data)
        if number % 8 == 0:
            assert body(CHUNKED, data, [1] * len(data)) == found, data
    assert read > 1000


def test_endless_input_fills_no_memory() -> None:
    tracemalloc.start()
    for start, more in ((b"GET http://a/ HTTP/1.1\r\n", b"X: y\r\n"), (b"GET ", b"a" * 100), (b"GET / HTTP/1.1\r\nX: ", b"a")):
        with pytest.raises(BadMessage):
            feed_for_ever(RequestReader(ORIGIN), start, more)
    for start, more in ((b"5;", b"x"), (b"1;a\r\n", b"a\r\n1;a\r\n"), (b"0\r\n", b"a:\r\n")):
        with pytest.raises(BadMessage):
            feed_for_ever(BodyReader(CHUNKED), start, more)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * HEAD_LIMIT


def feed_for_ever(reader: RequestReader | BodyReader, start: bytes, more: bytes) -> None:
    reader.feed(start)
    for _ in range(1_000_000):
        reader.feed(more)


# Responses --------------------------------------------------------------------------------------------------------------------------


def response(data: bytes, method: str = "GET", *, upgrade: bool = False) -> Response:
    found = ResponseReader(method, upgrade=upgrade).feed(data)
    assert found is not None
    return found


def answer(*fields: str, line: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join((line, *fields, "", "")).encode("latin-1")


@pytest.mark.parametrize(
    ("data", "method", "framing"),
    [
        (answer("Content-Length: 5"), "GET", Framing(Kind.LENGTH, 5)),
        (answer("Transfer-Encoding: chunked"), "GET", Framing(Kind.CHUNKED)),
        (answer(), "GET", Framing(Kind.CLOSE)),
        (answer("Content-Length: 5"), "HEAD", Framing(Kind.NONE)),
        (answer("Content-Length: 5", line="HTTP/1.1 304 Not Modified"), "GET", Framing(Kind.NONE)),
        (answer(line="HTTP/1.1 204"), "GET", Framing(Kind.NONE)),
        (answer(line="HTTP/1.1 100 Continue"), "GET", Framing(Kind.NONE)),
        (answer(line="HTTP/1.0 200 OK"), "GET", Framing(Kind.CLOSE)),
        (answer("Content-Length: 5"), "CONNECT", Framing(Kind.NONE)),
        (answer("Content-Length: 5", line="HTTP/1.1 407 No"), "CONNECT", Framing(Kind.LENGTH, 5)),
    ],
)
def test_where_a_response_ends(data: bytes, method: str, framing: Framing) -> None:
    assert response(data, method).framing == framing


@pytest.mark.parametrize(
    "data",
    [
        answer("Content-Length: 5", "Transfer-Encoding: chunked"), answer("Content-Length: 5", "Content-Length: 6"), answer("Content-Length: 5", "Content-Length: 5"), answer("Content-Length: x"),
        answer("Transfer-Encoding: chunked", line="HTTP/1.0 200 OK"), answer("Transfer-Encoding: chunked, identity"), answer("X: a", " b"), answer("X : a"), answer(line="HTTP/1.1 101 Switching"),
        answer(line="HTTP/2 200 OK"), answer(line="HTTP/1.1 600 X"), answer(line="HTTP/1.1 99 X"), answer(line="HTTP/1.1  200 OK"), answer(line="ICY 200 OK"), answer(line="HTTP/1.1 200OK"),
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\n", b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01", b"<html>",
    ],
)  # fmt: skip
def test_a_response_that_two_clients_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        ResponseReader("GET").feed(data)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (answer("Content-Length: 5"), True),
        (answer("Transfer-Encoding: chunked", "Connection: keep-alive"), True),
        (answer(line="HTTP/1.1 204 No"), True),
        (answer("Content-Length: 5", "Connection: Close"), False),
        (answer(), False),
        (answer("Content-Length: 5", line="HTTP/1.0 200 OK"), False),
        (answer("Content-Length: 5", "Connection: keep-alive", line="HTTP/1.0 200 OK"), False),
    ],
)
def test_whether_a_server_takes_another_request(data: bytes, kept: bool) -> None:
    assert response(data).keep_alive == kept


def test_a_response_is_written_anew_for_the_client() -> None:
    found = response(
        answer(
            "Server: x",
            "Connection: close, X-Hop",
            "X-Hop: 1",
            "Keep-Alive: timeout=5",
            "Content-Length: 5",
            "Set-Cookie: a",
            "Set-Cookie: b",
        )
    )
    assert not found.keep_alive
    assert found.render(1, close=False) == b"HTTP/1.1 200 OK\r\nServer: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 5\r\n\r\n"
    assert not found.is_interim and not found.is_switch and found.framing_for(0) == found.framing_for(1) == Kind.LENGTH
    assert found.render(0, close=True).endswith(b"Content-Length: 5\r\nConnection: close\r\n\r\n")
    chunked = response(answer("Transfer-Encoding: Chunked"))
    assert (
        chunked.framing_for(1) is Kind.CHUNKED
        and chunked.render(1, close=False) == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert chunked.framing_for(0) is Kind.CLOSE and chunked.render(0, close=False) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    assert response(answer()).render(1, close=False) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    assert (
        response(answer("Content-Length: 5"), "HEAD").render(1, close=True)
        == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    )
    assert response(answer("Transfer-Encoding: chunked"), "HEAD").render(0, close=False) == b"HTTP/1.1 200 OK\r\n\r\n"
    assert response(answer("Content-Length: 0", line="HTTP/1.1 204 No")).render(1, close=False) == b"HTTP/1.1 204 No\r\n\r\n"
    for bodiless in (
        answer("Transfer-Encoding: chunked", line="HTTP/1.1 304 Same"),
        answer("Transfer-Encoding: chunked", line="HTTP/1.1 204 No"),
    ):
        assert b"Transfer" not in response(bodiless).render(1, close=False)
    interim = response(answer("Link: x", line="HTTP/1.1 103 Early Hints"))
    assert (
        interim.is_interim
        and interim.render(1, close=True) == b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        and interim.render(0, close=True) == b""
    )
    switch = response(answer("Upgrade: websocket", "Connection: Upgrade", line="HTTP/1.1 101 Go"), upgrade=True)
    assert (
        switch.is_switch
        and not switch.is_interim
        and switch.render(1, close=False) == b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )


@settings(max_examples=200)
@given(
    st.sampled_from([200, 201, 204, 206, 301, 304, 403, 500, 599]),
    st.lists(st.tuples(names, field_values), max_size=6),
    st.sampled_from(["", "Content-Length: 7", "Transfer-Encoding: chunked"]),
    st.sampled_from(["GET", "HEAD", "POST"]),
    st.integers(0, 1),
    st.booleans(),
)
def test_a_response_that_is_passed_on_means_the_same_to_an_independent_parser(
    status: int, fields: list[tuple[str, str]], framing: str, method: str, minor: int, close: bool
) -> None:
    sent = {
        "": b"content",
        "Content-Length: 7": b"content",
        "Transfer-Encoding: chunked": b"3\r\ncon\r\n4;x=y\r\ntent\r\n0\r\nT: x\r\n\r\n",
    }[framing]
    lines = [f"{name}: {value}" for name, value in fields] + ([framing] if framing else [])
    try:
        reader = ResponseReader(method)
        found = reader.feed(answer(*lines, line=f"HTTP/1.1 {status} Reason") + sent)
    except BadMessage:
        return
    assert found is not None
    body, kind = BodyReader(found.framing), found.framing_for(minor)
    content = b"".join(bytes(framed(kind, piece)) for piece in body.feed(reader.rest)) + last_piece(kind)
    seen = http.client.HTTPResponse(Sock(found.render(minor, close=close) + content), method=method)  # type: ignore[arg-type]
    seen.begin()
    assert (seen.status, seen.reason, seen.version) == (status, "Reason", 11)
    assert len(seen.headers.get_all("Content-Length", []) + seen.headers.get_all("Transfer-Encoding", [])) <= 1
    assert minor == 1 or not seen.headers.get_all("Transfer-Encoding", [])
    assert seen.headers.get_all("Connection", []) == (["close"] if close or kind is Kind.CLOSE else [])
    assert seen.read() == (b"" if method == "HEAD" or status in (204, 304) else b"content")


def test_a_hundred_thousand_responses_are_read_or_refused() -> None:
    source = random.Random(SEED)
    start = answer("Server: x", "Content-Length: 5", "Connection: keep-alive") + b"hello"
    for number in range(100_000):
        data = mutated(source, start)
        found: object = None
        try:
            found = ResponseReader("GET").feed(data)
        except BadMessage as error:
            assert error.status == 502
            continue
        if isinstance(found, Response) and number % 4 == 0:
            again = response(found.render(1, close=False))
            assert (again.status, again.fields, again.framing, again.reason) == (found.status, found.fields, found.framing, found.reason)


# Refusals ---------------------------------------------------------------------------------------------------------------------------


def test_a_refusal_teaches() -> None:
    hint = ask_for("example.com", 443)
    assert hint == "ask for: agentkernel network allow NAME example.com:443"
    assert ask_for("::1", 22, "web") == "ask for: agentkernel network allow web [::1]:22"
    data = render_refusal(403, "egress_denied", "no rule allows example.com:443", rule="none", hint=hint)
    head, _, content = data.partition(b"\r\n\r\n")
    assert json.loads(content) == {
        "error": {"code": "egress_denied", "message": "no rule allows example.com:443", "rule": "none", "hint": hint}
    }
    found = response(data)
    assert (found.status, found.reason, found.framing) == (403, b"no rule allows example.com:443", Framing(Kind.LENGTH, len(content)))
    assert b"\r\nContent-Type: application/json\r\n" in head and head.endswith(b"\r\nConnection: close")


@pytest.mark.parametrize(
    ("refused", "status", "code", "rule", "hint"),
    [
        (RefusedError("no", rule="none"), 403, "egress_denied", "none", "agentkernel network allow NAME a.test:443"),
        (RefusedError("no", rule="deny a.test"), 403, "egress_denied", "deny a.test", "agentkernel network forget NAME 'a.test'"),
        (RefusedError("to 10.9", rule="private").guarded(Told("p", "no")), 403, "egress_denied", "p", "the address range"),
        (RefusedError("to 10.9", rule="deny 10.9.0.0/16").guarded(Told("d", "no")), 403, "egress_denied", "d", "the rule be forgotten"),
        (RefusedError("no", rule="secret", code="secret_refused"), 403, "secret_refused", "secret", ""),
        (RefusedError("no", rule="limit bytes", number=errno.EDQUOT), 429, "egress_limited", "limit bytes", ""),
        (failed("no", rule="allow 10.9.0.0/16", told_rule="allowed address"), 502, "egress_failed", "allowed address", ""),
        (failed("no", rule="public", number=errno.ETIMEDOUT), 504, "egress_failed", "public", ""),
    ],
)
def test_a_refusal_says_what_helps_and_not_where_a_name_leads(refused: RefusedError, status: int, code: str, rule: str, hint: str) -> None:
    data = render_refused(refused, Attempt(lambda _: None, "http", "a.test", 443), "GET")
    told = json.loads(data.partition(b"\r\n\r\n")[2])["error"]
    assert (response(data).status, told["code"], told["message"], told["rule"]) == (status, code, "no", rule)
    assert hint in told["hint"] and bool(hint) == bool(told["hint"]) and b"10.9" not in data


def test_a_refusal_cannot_be_made_to_say_more() -> None:
    evil = 'a\r\nSet-Cookie: x\r\n\r\n<script>"\\\u202e\ud800' + "b" * 5000
    data = render_refusal(403, "egress_denied", evil, rule=evil, hint=evil, method="HEAD")
    found = response(data, "HEAD")
    assert data.isascii() and len(found.reason) <= 200 and data.endswith(b"Connection: close\r\n\r\n") and b"\r\nSet-Cookie" not in data
    assert json.loads(render_refusal(403, "c", evil).partition(b"\r\n\r\n")[2])["error"]["message"] == evil
