"""Slow clients, floods and huge requests cost their own connection, and nobody else's."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from api.asking import parts_with, silent
from api.served import Address, everything, one_answer, parsed, put, request, serving

from agentkernel.api.limits import Limits
from agentkernel.api.listening import at_address, at_path
from agentkernel.errors import Conflict, InvalidInput

SETRESUID = {"x86_64": 117, "aarch64": 147}.get(platform.machine())
HUGE = Limits(header_s=60.0, body_idle_s=60.0, unread_s=60.0)
HASTY = Limits(header_s=0.2, body_idle_s=0.2, unread_s=0.2)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may pass through: pytest's own are root's alone."""
    path = Path(tempfile.mkdtemp(prefix="agentkernel-test-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def patient() -> Iterator[Address]:
    with serving(parts_with(silent, limits=replace(HUGE, header_bytes=4096, connections=8))) as address:
        yield address


@pytest.fixture
def hasty() -> Iterator[Address]:
    with serving(parts_with(silent, limits=HASTY)) as address:
        yield address


@contextmanager
def answered(address: Address, content: bytes, status: int) -> Iterator[socket.socket]:
    """A connection whose request had that answer: on a busy host a client of a hasty server may come too late, and comes again."""
    while True:
        with address.connected() as connection:
            put(connection, content)
            try:
                said, _ = one_answer(connection)
            except ConnectionError:
                continue
            if said == status:
                yield connection
                return


def test_headers_of_too_many_bytes_are_refused(patient: Address) -> None:
    with patient.connected() as connection:
        put(connection, request("/health", "X-Long: " + "x" * 5000))
        status, said = parsed(everything(connection))
    assert (status, said["code"]) == (431, "headers_too_large")


def test_headers_that_never_end_are_refused(patient: Address) -> None:
    with patient.connected() as connection:
        begun = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "
        put(connection, begun)
        put(connection, b"x" * (4097 - len(begun)))  # not one byte more: what is left unread takes the answer with it
        status, said = parsed(everything(connection))
    assert (status, said["code"]) == (431, "headers_too_large")


def test_a_request_line_of_too_many_bytes_is_refused(patient: Address) -> None:
    with patient.connected() as connection:
        put(connection, request("/" + "x" * 5000))
        status, _ = parsed(everything(connection))
    assert status == 431


def test_too_many_headers_are_refused(patient: Address) -> None:
    with patient.connected() as connection:
        put(connection, request("/health", *(f"X{number}: 1" for number in range(200))))
        status, _ = parsed(everything(connection))
    assert status == 431


def test_the_headers_of_many_requests_on_one_connection_are_not_added_up(patient: Address) -> None:
    with patient.connected() as connection:
        for _ in range(10):
            put(connection, request("/health", "X-Long: " + "x" * 3000))
            assert one_answer(connection)[0] == 200


def test_a_body_does_not_count_as_headers(patient: Address) -> None:
    with patient.connected() as connection:
        body = b"x" * 100_000
        for _ in range(2):
            put(connection, request("/no/such", f"Content-Length: {len(body)}", method="POST", body=body))
            assert one_answer(connection)[0] == 404


def with_body_behind(connection: socket.socket, following: bytes) -> None:
    """A request whose body, and what follows it, are sent when its headers have been read."""
    body = b"x" * 100_000
    told = (f"Content-Length: {len(body)}", "Content-Type: application/json", "Expect: 100-continue")
    put(connection, request("/run", *told, method="POST"))
    goes_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert connection.recv(len(goes_on), socket.MSG_WAITALL) == goes_on
    put(connection, body + following)
    assert one_answer(connection)[0] == 400


def test_the_end_of_a_body_does_not_count_as_the_headers_that_follow_it(patient: Address) -> None:
    with patient.connected() as connection:
        with_body_behind(connection, request("/health")[:-10])
        put(connection, request("/health")[-10:])
        assert one_answer(connection)[0] == 200


def test_headers_behind_a_body_that_never_end_are_refused(patient: Address) -> None:
    with patient.connected() as connection:
        with_body_behind(connection, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ")
        put(connection, b"x" * 4097)
        status, said = parsed(everything(connection))
    assert (status, said["code"]) == (431, "headers_too_large")


def test_what_is_no_http_is_answered_in_the_envelope(patient: Address) -> None:
    with patient.connected() as connection:
        put(connection, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # TLS
        status, said = parsed(everything(connection))
    assert (status, said["success"]) == (400, False)


def test_a_flood_of_requests_before_the_first_answer_ends_the_connection(patient: Address) -> None:
    with patient.connected() as connection:
        put(connection, request("/health") * 1000)
        everything(connection)  # which it could not read to the end, had it not been closed
    assert patient.get("/health")[0] == 200


def test_a_few_pipelined_requests_are_answered_in_order(patient: Address) -> None:
    with patient.connected() as connection:
        put(connection, request("/health") + request("/no") + request("/health"))
        assert [one_answer(connection)[0] for _ in range(3)] == [200, 404, 200]


def test_one_connection_too_many_is_told_so_and_the_others_stay(patient: Address) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(patient.connected()) for _ in range(8)]
        for connection in connections:
            put(connection, request("/health"))
            assert one_answer(connection)[0] == 200
        with patient.connected() as more:
            status, said = parsed(everything(more))
            assert (status, said["code"]) == (503, "busy")
        for connection in connections:
            put(connection, request("/health"))
            assert one_answer(connection)[0] == 200


def test_a_client_that_never_asks_is_let_go(hasty: Address) -> None:
    with hasty.connected() as connection:
        assert parsed(everything(connection))[0] == 408


def test_a_client_that_asks_letter_by_letter_is_let_go_and_others_are_served(hasty: Address) -> None:
    with hasty.connected() as slow:
        put(slow, b"GET /health HT")
        with answered(hasty, request("/health"), 200):
            pass
        assert parsed(everything(slow))[0] == 408


def test_a_client_that_sends_line_ends_for_ever_is_let_go(hasty: Address) -> None:
    with answered(hasty, request("/health"), 200) as connection:
        put(connection, b"\r\n")
        assert parsed(everything(connection))[0] == 408


def test_a_body_that_does_not_come_is_not_waited_for(hasty: Address) -> None:
    with hasty.connected() as connection:
        put(connection, request("/gc", "Content-Type: application/json", "Content-Length: 100", method="POST", body=b"{"))
        assert parsed(everything(connection))[0] == 408


def test_the_rest_of_a_body_after_its_answer_is_not_read_for_ever(hasty: Address) -> None:
    with answered(hasty, request("/no/such", "Content-Length: 100000000", method="POST"), 413) as connection:
        assert everything(connection) == b""  # closed


def test_a_unix_socket_is_for_its_user_alone_and_needs_no_name(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with serving(parts_with(silent, hosts=None), path) as address:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert address.get("/health") == (200, {"success": True, "data": "ok"})
        with pytest.raises(Conflict), at_path(str(path)):
            pass
    assert not path.exists()


def test_a_unix_socket_that_a_dead_server_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with at_path(str(path)):
        assert path.exists()
    path.write_text("mine")
    with pytest.raises(InvalidInput), at_path(str(path)):
        pass
    assert path.read_text() == "mine"


def test_an_address_that_is_taken_or_is_not_here_is_refused() -> None:
    with at_address("127.0.0.1", 0) as listener, pytest.raises(Conflict), at_address("127.0.0.1", listener.getsockname()[1]):
        pass
    for host, port in (("192.0.2.1", 0), ("no.such.name.invalid", 0), ("127.0.0.1", 70000)):
        with pytest.raises((InvalidInput, Conflict)), at_address(host, port):
            pass


@pytest.mark.skipif(os.geteuid() != 0 or SETRESUID is None, reason="takes root on x86_64 or aarch64, to become somebody else")
def test_a_peer_that_is_somebody_else_gets_no_answer_even_if_it_can_open_the_socket(place: Path) -> None:
    path = place / "api.sock"
    heard: list[bytes] = []

    def ask_as_somebody_else() -> None:
        assert ctypes.CDLL(None).syscall(SETRESUID, -1, 65534, -1) == 0  # of this thread alone, as libc's own function would not
        with address.connected() as connection:
            put(connection, request("/health"))
            heard.append(everything(connection))

    with serving(parts_with(silent, hosts=None), path) as address:
        path.chmod(0o777)
        thread = threading.Thread(target=ask_as_somebody_else)
        thread.start()
        thread.join()
        assert heard == [b""]
        assert address.get("/health")[0] == 200
