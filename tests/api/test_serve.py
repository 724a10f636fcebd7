"""`agentkernel serve` as a process: what it prints, whom it serves, how it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from api.served import certificate_in, everything, one_answer, parsed, request, until
from unit import cli_harness

DEADLINE_S = 60.0
BODY = json.dumps({"command": ["echo", "hello"]}).encode()
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Server:
    """A server, and the first lines that it printed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.process = process
        self.url = process.stdout.readline().decode().strip()
        assert self.url, process.communicate(timeout=DEADLINE_S)[1].decode()
        self.port = urlsplit(self.url).port or 0

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def connected(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def ask(self, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> tuple[int, Any]:
        """Status and envelope of one request."""
        more = (f"Content-Length: {len(body)}", "Content-Type: application/json") if body else ()
        with self.connected() as connection:
            connection.sendall(request(path, "Connection: close", *headers, *more, method=method, body=body))
            return parsed(everything(connection))

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Its exit status and what it wrote to stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, errors.decode()


@contextmanager
def serving(place: Path, *flags: str) -> Iterator[Server]:
    """A server for a block."""
    process = cli_harness.start(place, "serve", *flags, AGENTKERNEL_HOME=str(place))
    with process:
        try:
            yield Server(process)
        finally:
            if process.poll() is None:
                process.kill()


def token_of(place: Path) -> str:
    """As `agentkernel config token` says it."""
    return cli_harness.run(place, "config", "token", AGENTKERNEL_HOME=str(place)).stdout.decode().strip()


def refused(place: Path, *flags: str) -> str:
    """What is said of flags that cannot be."""
    ended = cli_harness.run(place, "serve", *flags, AGENTKERNEL_HOME=str(place))
    assert ended.returncode == 2, ended
    assert ended.stdout == b""
    return ended.stderr.decode()


def test_the_line_that_it_prints_first_works_as_it_is_and_is_not_printed_again(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0") as server:
        words = shlex.split(server.line())
        assert words[:4] == ["curl", "-X", "POST", f"{server.url}/run"]
        headers = [word for word in words if ": " in word and not word.startswith("{")]
        assert f"Authorization: Bearer {token_of(tmp_path)}" in headers
        body = json.dumps({**json.loads(words[-1]), "command": ["echo", "hello"]}).encode()
        status, said = server.ask("/run", *(header for header in headers if "Content" not in header), method="POST", body=body)
        assert (status, said["success"], said["data"]["output"]) == (200, True, "hello\n")
        assert server.end()[0] == 0
    with serving(tmp_path, "--port", "0") as server:
        line = server.line()
        assert 'Bearer $(agentkernel config token)"' in line
        assert token_of(tmp_path) not in line
        assert server.end()[0] == 0


def test_who_has_no_token_is_refused_and_who_has_one_is_served(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0") as server:
        assert server.ask("/health") == (200, {"success": True, "data": "ok"})
        status, said = server.ask("/run", method="POST", body=BODY)
        assert (status, said["code"]) == (401, "unauthorized")
        assert server.ask("/version", f"Authorization: Bearer {token_of(tmp_path)}")[0] == 200
        assert server.ask("/version", f"Authorization: Bearer {token_of(tmp_path)}", "Origin: http://evil.example")[0] == 403
        assert server.end(signal.SIGINT) == (0, "")


def test_a_token_counts_from_when_it_is_made_to_when_it_is_removed_and_what_it_has_under_way_ends(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0") as server:
        made = cli_harness.run(tmp_path, "token", "create", "ci", AGENTKERNEL_HOME=str(tmp_path))
        bearer = f"Authorization: Bearer {made.stdout.decode().strip()}"
        with server.connected() as connection:
            body = json.dumps({"command": ["stubborn"]}).encode()
            lengths = (f"Content-Length: {len(body)}", "Content-Type: application/json")
            connection.sendall(request("/run", bearer, *lengths, method="POST", body=body))
            cli_harness.wait_for_log(tmp_path, "start stubborn")
            cli_harness.run(tmp_path, "token", "remove", "ci", AGENTKERNEL_HOME=str(tmp_path))
            status, said = one_answer(connection)
            assert (status, said["error"]) == (401, "the token was removed")
        cli_harness.wait_for_log(tmp_path, "kill")
        assert server.ask("/version", bearer)[0] == 401
        assert server.end()[0] == 0


def test_a_request_under_way_is_answered_before_it_ends(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0", "--no-token") as server, server.connected() as connection:
        lengths = (f"Content-Length: {len(BODY)}", "Content-Type: application/json", "Expect: 100-continue")
        connection.sendall(request("/run", *lengths, method="POST"))
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")  # somebody waits for the body
        server.process.send_signal(signal.SIGTERM)
        until(lambda: _is_closed(server.port))
        connection.sendall(BODY)
        status, said = parsed(everything(connection))
        assert (status, said["data"]["output"]) == (200, "hello\n")
        assert server.process.wait(DEADLINE_S) == 0


def _is_closed(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S).close()
    except OSError:
        return True
    return False


def test_a_second_signal_ends_it_though_something_is_under_way(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0", "--no-token") as server, server.connected() as connection:
        body = json.dumps({"command": ["stubborn"]}).encode()
        lengths = (f"Content-Length: {len(body)}", "Content-Type: application/json")
        connection.sendall(request("/run", *lengths, method="POST", body=body))
        cli_harness.wait_for_log(tmp_path, "start stubborn")
        server.process.send_signal(signal.SIGINT)
        until(lambda: _is_closed(server.port))
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(DEADLINE_S) == 0


def test_without_a_token_only_this_machine_is_served_and_a_warning_says_so(tmp_path: Path) -> None:
    assert "--no-token is for this machine alone" in refused(tmp_path, "--port", "0", "--host", "0.0.0.0", "--no-token")
    with serving(tmp_path, "--port", "0", "--no-token") as server:
        assert "Authorization" not in server.line()
        assert server.ask("/run", method="POST", body=BODY)[0] == 200
        assert server.ask("/run", "Host: evil.example", method="POST", body=BODY)[0] == 400  # two hosts
        assert server.ask("/run", "Sec-Fetch-Site: cross-site", method="POST", body=BODY)[0] == 403
        status, errors = server.end()
    assert status == 0
    assert errors.startswith("warning: without a token")


def test_a_unix_socket_needs_no_token_and_is_removed_at_the_end(tmp_path: Path) -> None:
    with serving(tmp_path, "--unix", "api.sock") as server:
        assert server.url == f"unix://{tmp_path}/api.sock"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(f"{tmp_path}/api.sock")
            head = (f"Content-Length: {len(BODY)}", "Content-Type: application/json", "Connection: close")
            connection.sendall(request("/run", *head, method="POST", body=BODY))
            status, said = parsed(everything(connection))
        assert (status, said["data"]["output"]) == (200, "hello\n")
        assert server.end() == (0, "")
    assert not (tmp_path / "api.sock").exists()


def test_every_request_is_a_line_where_that_is_wanted(tmp_path: Path) -> None:
    with serving(tmp_path, "--port", "0", "--verbose") as server:
        server.ask("/health?secret=1")
        server.ask("/sandboxes", f"Authorization: Bearer {token_of(tmp_path)}", method="DELETE")
        server.ask("/no/such%0aroute")
        _, errors = server.end()
    lines = [re.sub(r"^\S+ (.*) \d+\.\d ms$", r"\1", line) for line in errors.splitlines()]
    assert lines == ["- GET /health 200", "default DELETE /sandboxes 405", "- GET /no/such\\nroute 401"]


def test_json_says_where_it_is_and_the_new_token(tmp_path: Path) -> None:
    process = cli_harness.start(tmp_path, "serve", "--port", "0", "--json", AGENTKERNEL_HOME=str(tmp_path))
    with process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            text += process.stdout.readline().decode()
        said = json.loads(text)
        assert (said["pid"], said["needs_token"], said["token"]) == (process.pid, True, token_of(tmp_path))
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--port", "70000"), "70000"),
        (("--host", "no.such.name.invalid"), "cannot listen"),
        (("--port", "0", "--origin", "example.com"), "is not an origin"),
        (("--port", "0", "--origin", "https://*.example.com"), "is not an origin"),
        (("--port", "0", "--hostname", "http://example.com"), "is not the name of a host"),
        (("--port", "0", "--tls-cert", "x"), "belong together"),
        (("--port", "0", "--tls-cert", "x", "--tls-key", "y"), "cannot read x"),
        (("--prot", "0"), "--prot"),
        (("--unix", "api.sock", "--port", "0"), "not at --host and --port"),
        (("--unix", "api.sock", "--host", "127.0.0.1"), "not at --host and --port"),
        (("--port", "0", "--rate", "-1"), "--rate takes requests a second, 0 to 1000000, not -1"),
        (("--port", "0", "--rate", "nan"), "not nan"),
        (("--port", "0", "--rate", "inf"), "not inf"),
    ],
)
def test_flags_that_cannot_be_are_refused(tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    assert said in refused(tmp_path, *flags)


def test_tls_is_spoken_where_there_is_a_certificate(tmp_path: Path) -> None:
    certificate_in(tmp_path)
    with serving(tmp_path, "--port", "0", "--tls-cert", "cert.pem", "--tls-key", "key.pem") as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        with server.connected() as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(request("/health", "Connection: close"))
            assert parsed(everything(connection)) == (200, {"success": True, "data": "ok"})
        assert server.end()[0] == 0


def test_where_others_are_on_the_way_a_warning_says_that_they_read(tmp_path: Path) -> None:
    certificate_in(tmp_path)
    with serving(tmp_path, "--port", "0", "--host", "0.0.0.0") as server:
        assert server.end() == (0, "warning: without TLS (--tls-cert, --tls-key) whoever is on the way reads tokens, commands and files\n")
    with serving(tmp_path, "--port", "0", "--host", "0.0.0.0", "--tls-cert", "cert.pem", "--tls-key", "key.pem") as server:
        assert server.end() == (0, "")


def test_a_socket_that_a_service_manager_has_opened_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", _AS_SYSTEMD, str(listener.fileno()), *cli_harness.command_line("serve")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=cli_harness.environment_in(tmp_path, AGENTKERNEL_HOME=str(tmp_path)),
            pass_fds=[listener.fileno()],
        )
        with process:
            server = Server(process)
            assert server.port == listener.getsockname()[1]
            assert server.ask("/health")[0] == 200
            assert server.ask("/version")[0] == 401
            assert server.end() == (0, "")


def test_an_address_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ended = cli_harness.run(tmp_path, "serve", "--port", str(other.getsockname()[1]), AGENTKERNEL_HOME=str(tmp_path))
    assert ended.returncode == 125
    assert b"cannot listen" in ended.stderr


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_package_is_named_with_what_adds_it(tmp_path: Path, missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\nfrom agentkernel.cli.main import main\nsys.exit(main(['serve', '--port', '0']))"
    )
    environment = cli_harness.environment_in(tmp_path, AGENTKERNEL_HOME=str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment, timeout=DEADLINE_S, cwd=tmp_path)
    assert ended.returncode == 125
    assert "pip install 'agentkernel[api]'" in ended.stderr.decode()
    assert missing in ended.stderr.decode()


def test_help_teaches(tmp_path: Path) -> None:
    text = cli_harness.run(tmp_path, "serve", "--help").stdout.decode()
    for word in ("agentkernel config token", "--no-token", "--unix", "run-only", "docs/http-api.md", "curl"):
        assert word in text
    assert os.linesep in text
