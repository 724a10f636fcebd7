"""Hostile ways to the network (row D of the probe matrix), written as talks: what is asked for must not be reached.

Each address is told by the servers of `agentkernel.testing.internet`, where every address of the world is listened on: nothing inside is believed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from agentkernel.testing.internet import GOOD, OTHER, OWN, PUBLIC
from agentkernel.testing.talk import REST, SOCKS_REPLY, Talk, connect, get, lookup, plain, say, send, socks, socks_address

# Addresses that are nobody's on the public internet: of the host, its networks, its cloud.
REFUSED_IPV4 = (
    "169.254.169.254",  # metadata of most clouds
    "169.254.170.2",  # of AWS containers
    "100.100.100.200",  # of Alibaba
    "192.0.0.192",  # of Oracle
    "168.63.129.16",  # of Azure: it looks public
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.5.4",
    "172.31.255.254",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "198.19.255.254",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    OWN,
)
REFUSED_IPV6 = (
    "fd00:ec2::254",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:7f00:1::1",
)
REFUSED_NAMES = (
    "localhost",
    "LOCALHOST",
    "localhost.",
    "www.localhost",
    "metadata.google.internal",
    "Metadata.Google.Internal.",
    "metadata",
    "instance-data",
    "instance-data.ec2.internal",
    "kubernetes.default.svc",
    "host.docker.internal",
    "gateway.docker.internal",
    "router.local",
    "printer.lan",
    "intranet",
    "box.home.arpa",
    "a.onion",
)


def spellings(address: str) -> Iterator[str]:
    """How else programs write an IPv4 address."""
    a, b, c, d = ipaddress.IPv4Address(address).packed
    number = int(ipaddress.IPv4Address(address))
    yield from (address, f"{address}.", str(number), hex(number), f"0{number:o}", f"0x{number:08X}")
    yield from (f"{a}.{number & 0xFFFFFF}", f"{a}.{b}.{c * 256 + d}", f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}")
    yield from (f"[::ffff:{address}]", f"[::ffff:{a:02x}{b:02x}:{c:02x}{d:02x}]", f"[::{address}]", f"[64:ff9b::{address}]")
    yield from (f"[2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1]", f"{a}.{b}.{c}.{d + 256}", f"%{ord(address[0]):x}{address[1:]}")


def to_host(host: str, port: int = 80) -> list[Talk]:
    """Every way in which a program can ask the proxy for a host."""
    page = send(plain("/reached", host))
    bare = host.strip("[]")
    asks = [
        get(f"http://{host}:{port}/reached"),
        say(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"),
        socks(bare, port, REST),
    ]
    return [*asks, Talk(steps=(*socks(bare, port).steps, SOCKS_REPLY, page, REST))] if port == 80 else asks


def to_address(address: str, port: int = 80) -> list[Talk]:
    """By number: through the proxy, and directly."""
    shown = f"[{address}]" if ":" in address else address
    page = send(plain("/reached", shown))
    direct = [] if address in LOOPBACK else [Talk(to=(address, port), steps=(page, REST), timeout_s=3)]
    return [*to_host(shown, port), socks_address(address, port, SOCKS_REPLY, page, REST), *direct]


LOOPBACK = frozenset({"127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"})  # directly these are the sandbox's own

# Names that only look like good.example, whatever *.good.example and good.example allow.
LOOKALIKES = (
    "evilgood.example",
    "evil-good.example",
    "good.example.evil.example",
    "good.example.com",
    "xgood.example",
    "good.exampl",
    "good.examplee",
    "good-example",
    "goodxexample",
    "other.example",
    "www.good.example.other.example",
    "www.evilgood.example",
    "*.good.example.evil.example",
    "g\u043e\u043ed.example".encode("idna").decode(),  # Cyrillic letters, as an A-label
)
# Hosts that hold more than a host. None may be taken for good.example and lead elsewhere.
TWISTED = (
    f"{GOOD}\0.{OTHER}",
    f"{OTHER}\0.{GOOD}",
    f"{GOOD}@{OTHER}",
    f"{OTHER}#.{GOOD}",
    f"{OTHER}?.{GOOD}",
    f"{OTHER}/.{GOOD}",
    f"{OTHER}\\.{GOOD}",
    f"{OTHER}:80@{GOOD}",
    f"{OTHER}%00.{GOOD}",
    f"{OTHER}%2f.{GOOD}",
    f"{OTHER} .{GOOD}",
    f"{OTHER}\t.{GOOD}",
    f"{OTHER}\r\nX: .{GOOD}",
    f"..{GOOD}",
    f".{GOOD}",
    f"{GOOD}..",
    f"a..{GOOD}",
    f"{'a.' * 130}{GOOD}"[-255:],
)

HIDDEN = f"GET /smuggled00 HTTP/1.1\r\nHost: {GOOD}\r\nConnection: close\r\n\r\n"
_CHUNKED_HIDDEN = f"0\r\n\r\n{HIDDEN}"
_START = f"POST http://{GOOD}/echo HTTP/1.1\r\nHost: {GOOD}\r\n"


def _post(*fields: str, body: str) -> bytes:
    return (_START + "".join(f"{field}\r\n" for field in fields) + "\r\n" + body).encode("latin-1")


# What one reader takes for one request and another for two. `/smuggled` stands only where it belongs to a body.
SMUGGLED = (
    _post(f"Content-Length: {len(_CHUNKED_HIDDEN)}", "Transfer-Encoding: chunked", body=_CHUNKED_HIDDEN),  # length and chunks
    _post("Transfer-Encoding: chunked", f"Content-Length: {len(_CHUNKED_HIDDEN)}", body=_CHUNKED_HIDDEN),  # chunks and length
    _post("Content-Length: 0", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),  # two lengths
    _post(f"Content-Length: 0, {len(HIDDEN)}", body=HIDDEN),  # a list of lengths
    _post(f"Content-Length: +{len(HIDDEN)}", body=HIDDEN),  # a signed length
    _post("Content-Length: 0x0", body=HIDDEN),  # a length in other digits
    _post(f"Content-Length : {len(HIDDEN)}", body=HIDDEN),  # a length with a blank before the colon
    _post("Transfer-Encoding : chunked", "Content-Length: 0", body=_CHUNKED_HIDDEN),  # chunks with a blank before the colon
    _post("Transfer-Encoding: xchunked", f"Content-Length: {len(_CHUNKED_HIDDEN)}", body=_CHUNKED_HIDDEN),  # an unknown coding
    _post("Transfer-Encoding: chunked, identity", f"Content-Length: {len(_CHUNKED_HIDDEN)}", body=_CHUNKED_HIDDEN),  # chunks not last
    _post("Transfer-Encoding:\x0bchunked", f"Content-Length: {len(_CHUNKED_HIDDEN)}", body=_CHUNKED_HIDDEN),  # chunks after a tab
    _post("Transfer-Encoding:", " chunked", f"Content-Length: {len(_CHUNKED_HIDDEN)}", body=_CHUNKED_HIDDEN),  # a folded coding
    _post("X: y", "\tTransfer-Encoding: chunked", f"Content-Length: {len(_CHUNKED_HIDDEN)}", body=_CHUNKED_HIDDEN),  # chunks in a field that is folded
    _post("Transfer-Encoding: chunked", body=f"10000000000000000\r\n{_CHUNKED_HIDDEN}"),  # a chunk's size that overflows
    _post("Transfer-Encoding: chunked", body=f"-1\r\n{_CHUNKED_HIDDEN}"),  # a negative chunk
    _post("Transfer-Encoding: chunked", body=f"{len(HIDDEN):x}\n{HIDDEN}\n0\n\n"),  # a chunk that ends with a line feed alone
    _post("Transfer-Encoding: chunked", body=f"0;\n\r\n\r\n{HIDDEN}"),  # an extension with a line feed
    _post(f"X: y\nContent-Length: {len(HIDDEN)}", body=HIDDEN),  # a bare line feed in the head
    _post(f"X: y\rContent-Length: {len(HIDDEN)}", body=HIDDEN),  # a bare carriage return in the head
    _post(f"X\0: y\r\nContent-Length: {len(HIDDEN)}", body=HIDDEN),  # a zero byte in a field
    _post("X: y\n", "Content-Length: 0", body=HIDDEN),  # a head that ends early
    _post(f"Content-Length: {len(HIDDEN)}", "Connection: Content-Length", body=HIDDEN),  # hop-by-hop length
    _post("Connection: Upgrade", "Upgrade: websocket", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),  # an upgrade that is refused
    _post("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAAA", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),  # an upgrade to HTTP/2
    f"GET http://{GOOD}/hello HTTP/1.1\r\nHost: {GOOD}\r\nContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}".encode(),  # a GET with a body
    f"POST http://{GOOD}/echo HTTP/1.0\r\nHost: {GOOD}\r\nTransfer-Encoding: chunked\r\n\r\n{_CHUNKED_HIDDEN}".encode(),  # HTTP/1.0 in chunks
)  # fmt: skip

# Requests of which two readers could disagree whom they are for. None may reach other.example, or reach good.example as if it were that.
FOR_WHOM = (
    f"GET http://{GOOD}/hello HTTP/1.1\r\nHost: {OTHER}\r\n\r\n",  # another Host
    f"GET http://{GOOD}/hello HTTP/1.1\r\nHost: {GOOD}\r\nHost: {OTHER}\r\n\r\n",  # two Hosts
    f"GET http://{GOOD}/hello HTTP/1.1\r\nHost : {OTHER}\r\nHost: {GOOD}\r\n\r\n",  # a Host with a blank before the colon
    f"GET http://{GOOD}/hello HTTP/1.1\r\nHost: {GOOD}\r\n {OTHER}\r\n\r\n",  # a folded Host
    f"GET http://{GOOD}@{OTHER}/hello HTTP/1.1\r\nHost: {GOOD}\r\n\r\n",  # a user in the URL
    f"GET http://{OTHER}#@{GOOD}/hello HTTP/1.1\r\nHost: {GOOD}\r\n\r\n",  # a fragment in the URL
    f"GET http://{OTHER}\\@{GOOD}/hello HTTP/1.1\r\nHost: {GOOD}\r\n\r\n",  # a backslash in the URL
    f"GET http://{GOOD}/ http://{OTHER}/hello HTTP/1.1\r\nHost: {GOOD}\r\n\r\n",  # a blank in the URL
    f"GET\thttp://{OTHER}/hello\tHTTP/1.1\r\nHost: {GOOD}\r\n\r\n",  # a tab in the request line
    f"GET /hello HTTP/1.1\r\nHost: {OTHER}\r\n\r\n",  # origin form
    f"GET gopher://{GOOD}/hello HTTP/1.1\r\nHost: {GOOD}\r\n\r\n",  # another scheme
    "GET http:///hello HTTP/1.1\r\nHost: \r\n\r\n",  # a URL without a host
    f"OPTIONS * HTTP/1.1\r\nHost: {OTHER}\r\n\r\n",  # asterisk form
    f"CONNECT {OTHER}:443/{GOOD} HTTP/1.1\r\nHost: {GOOD}\r\n\r\n",  # CONNECT with a path
    f"CONNECT {GOOD}:443@{OTHER}:443 HTTP/1.1\r\nHost: {GOOD}:443\r\n\r\n",  # CONNECT with a user
    f"CONNECT {OTHER} HTTP/1.1\r\nHost: {GOOD}:443\r\n\r\n",  # CONNECT without a port
    f"CONNECT {GOOD}:0 HTTP/1.1\r\nHost: {GOOD}:0\r\n\r\n",  # CONNECT to port 0
    f"CONNECT {GOOD}:65616 HTTP/1.1\r\nHost: {GOOD}\r\n\r\n",  # CONNECT to port 65616
    f"CONNECT {OTHER}:443 HTTP/1.1\r\nHost: {GOOD}:443\r\n\r\n",  # CONNECT with another Host
    f"GET http://{GOOD}/hello HTTP/1.1\r\nHost: {GOOD}\r\n\r\nGET http://{OTHER}/hello HTTP/1.1\r\nHost: {OTHER}\r\n\r\n",  # a second request for another host
    f"GET http://{OTHER}/hello HTTP/1.1\r\nHost: {OTHER}\r\nX-Forwarded-Host: {GOOD}\r\nForwarded: host={GOOD}\r\n\r\n",  # X-Forwarded-Host
)  # fmt: skip

# What no proxy or resolver was made to read.
GARBAGE = (
    b"\0" * 5000,
    bytes(range(256)) * 40,
    b"\x05" * 600,
    b"\x05\xff" + b"\0" * 255 + b"\x05\x02\0\x01" + b"\x7f\0\0\x01\0\x50",  # SOCKS: BIND
    b"\x05\x01\0\x05\x03\0\x01\x7f\0\0\x01\0\x50",  # SOCKS: UDP ASSOCIATE
    b"\x04\x01\0\x50\0\0\0\x01\0" + GOOD.encode() + b"\0",
    b"\x16\x03\x01\xff\xff" + b"\x01" * 4000,
    b"GET " + b"a" * 70_000,
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n" * 20_000,
    b"POST http://good.example/echo HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000,
    b"\xff\xff" + b"A" * 65_535,
    b"\0\x0c" + lookup(GOOD)[:12],
    b"\0\x1d" + b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0" + b"\xc0\x0c" + b"\0\x01\0\x01" + b"\0" * 11,  # a name that points to itself
)


def smuggled() -> Iterator[bytes]:
    """SMUGGLED, each with a number of its own in what it hides."""
    for number, data in enumerate(SMUGGLED):
        yield data.replace(b"/smuggled00", b"/smuggled%02d" % number)


def mistaken_tls() -> list[Talk]:
    """Connections to good.example at port 443 whose handshake is for somebody else, or is none."""
    page = send(plain("/fronted", OTHER))
    to_other, to_nobody = ("tls", (OTHER, "")), ("tls", ("", ""))
    asks = [connect(GOOD, 443, step, page, REST) for step in (to_other, to_nobody, ("tls", (PUBLIC, "")))]
    asks += [socks(GOOD, 443, SOCKS_REPLY, step, page, REST) for step in (to_other, to_nobody)]
    return [*asks, connect(GOOD, 443, page, REST), socks(GOOD, 443, SOCKS_REPLY, page, REST)]
