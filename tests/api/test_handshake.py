"""TLS: a connection that says nothing costs its own time and its own place, as one without TLS does."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from api.asking import parts_with, silent
from api.served import Address, certificate_in, everything, one_answer, parsed, put, request, serving, until

from agentkernel.api.limits import Limits
from agentkernel.api.serve import Certificate
from agentkernel.errors import InvalidInput

SLOW = Limits(header_s=60.0, body_idle_s=60.0, unread_s=60.0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate_in(tmp_path_factory.mktemp("tls"))


@contextmanager
def secured(address: Address, certificate: Certificate) -> Iterator[ssl.SSLSocket]:
    """A connection whose handshake is done."""
    context = ssl.create_default_context(cafile=certificate.certificate)
    with address.connected() as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        yield connection


def is_answered(address: Address, certificate: Certificate) -> bool:
    """Whether a request comes through."""
    try:
        with secured(address, certificate) as connection:
            put(connection, request("/health", "Connection: close"))
            return parsed(everything(connection))[0] == 200
    except OSError:
        return False


def test_who_says_nothing_is_not_waited_for(certificate: Certificate) -> None:
    with serving(parts_with(silent, limits=replace(SLOW, header_s=0.2)), certificate=certificate) as address:
        for begun in (b"", b"\x16\x03\x01\x02\x00\x01"):
            with address.connected() as connection:
                put(connection, begun)
                assert everything(connection) == b""


def test_who_has_not_shaken_hands_counts_among_the_connections(certificate: Certificate) -> None:
    with serving(parts_with(silent, limits=replace(SLOW, connections=2)), certificate=certificate) as address:
        with ExitStack() as stack:
            stack.enter_context(address.connected())
            stack.enter_context(address.connected())
            with address.connected() as more:
                assert everything(more) == b""
            assert not is_answered(address, certificate)
        until(lambda: is_answered(address, certificate))


def test_what_is_no_tls_ends_its_connection_alone(certificate: Certificate) -> None:
    with serving(parts_with(silent, limits=SLOW), certificate=certificate) as address:
        with address.connected() as connection:
            put(connection, request("/health"))
            everything(connection)
        assert is_answered(address, certificate)


def test_what_comes_with_the_end_of_the_handshake_is_read(certificate: Certificate) -> None:
    """The last words of a client's handshake and its first request, in one piece."""
    context = ssl.create_default_context(cafile=certificate.certificate)
    with serving(parts_with(silent, limits=SLOW), certificate=certificate) as address, address.connected() as connection:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
        tls.write(request("/health") + request("/no"))
        connection.sendall(outgoing.read())
        answered = b""
        while answered.count(b"HTTP/1.1 ") < 2 or not answered.endswith(b"}"):
            try:
                answered += tls.read()
            except ssl.SSLWantReadError:
                incoming.write(connection.recv(65536))
        assert answered.startswith(b"HTTP/1.1 200 ") and b"HTTP/1.1 404 " in answered


def test_requests_follow_each_other_over_tls(certificate: Certificate) -> None:
    with serving(parts_with(silent, limits=SLOW), certificate=certificate) as address, secured(address, certificate) as connection:
        for _ in range(3):
            put(connection, request("/health"))
            assert one_answer(connection)[0] == 200


def test_a_server_ends_though_a_handshake_is_under_way(certificate: Certificate) -> None:
    with socket.socket() as connection, serving(parts_with(silent, limits=SLOW), certificate=certificate) as address:
        connection.connect(address.name)
        assert is_answered(address, certificate)  # so that the other has been taken too


def test_a_certificate_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("nothing")
    with pytest.raises(InvalidInput, match="cannot be used"):
        Certificate(certificate=str(tmp_path / "x"), key=str(tmp_path / "x")).context()
