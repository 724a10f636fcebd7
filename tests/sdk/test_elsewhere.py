"""A daemon elsewhere: how it is named, and what is said of one that cannot be used. In each case nothing was done."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import ssl
import threading
from pathlib import Path

import pytest
from remote_world import answering, certificates, nobody
from websockets.sync.server import serve

from agentkernel import AsyncClient, __version__
from agentkernel.abc import Caller
from agentkernel.client import tunnel
from agentkernel.client.calls import Calls
from agentkernel.client.connection import Daemon
from agentkernel.config.elsewhere import elsewhere_of, located, parse_elsewhere
from agentkernel.errors import (
    AgentKernelError,
    CertificateUntrusted,
    DoorMissing,
    InvalidInput,
    ProtocolViolation,
    ServerUnavailable,
    Unsupported,
    VersionDiffers,
)
from agentkernel.sdk.place import environment_of


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "path"),
    [
        ("http://127.0.0.1:18888", "http", "127.0.0.1", 18888, ""),
        ("https://ci.example.com", "https", "ci.example.com", 443, ""),
        ("https://ci.example.com/", "https", "ci.example.com", 443, ""),
        ("https://ci.example.com/agents/", "https", "ci.example.com", 443, "/agents"),
        ("http://[::1]:80", "http", "::1", 80, ""),
        ("unix:///run/user/1000/ak.sock", "unix", "", 0, "/run/user/1000/ak.sock"),
    ],
)
def test_a_url_names_it(text: str, scheme: str, host: str, port: int, path: str) -> None:
    found = parse_elsewhere(text, "ak_secret")
    assert (found.scheme, found.host, found.port, found.path) == (scheme, host, port, path)
    assert "ak_secret" not in repr(found)


@pytest.mark.parametrize(
    "text",
    [
        "box",
        "box:18888",
        "tcp://box:1",
        "http://",
        "http://box:0",
        "http://box:65536",
        "http://u:p@box",
        "http://box/?q",
        "http://a b",
        "unix://x",
        "unix:///",
    ],
)
def test_what_is_no_url_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_elsewhere(text)
    assert "u:p" not in refused.value.message


def test_a_token_comes_from_the_variable_or_from_a_file(tmp_path: Path) -> None:
    kept = tmp_path / "token"
    kept.write_text("ak_kept\n")
    named = {"AGENTKERNEL_HOST": "http://box:1", "AGENTKERNEL_TOKEN_FILE": str(kept)}
    found = elsewhere_of(named)
    assert found is not None and found.token == "ak_kept"
    said = elsewhere_of(named | {"AGENTKERNEL_TOKEN": "ak_said"})
    assert said is not None and said.token == "ak_said"
    for wrong in (tmp_path / "none", tmp_path):
        with pytest.raises(InvalidInput, match="cannot be read"):
            elsewhere_of(named | {"AGENTKERNEL_TOKEN_FILE": str(wrong)})
    kept.write_text("two words\n")
    with pytest.raises(InvalidInput, match="holds no token"):
        elsewhere_of(named)


def test_the_users_file_names_one_where_the_environment_says_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "agentkernel"
    directory.mkdir()
    (directory / "config.toml").write_text('host = "https://ci.example.com"\ntoken_file = "token"\n')
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert located(environment) == environment | {
        "AGENTKERNEL_HOST": "https://ci.example.com",
        "AGENTKERNEL_TOKEN_FILE": str(directory / "token"),
    }
    for said in ({"AGENTKERNEL_HOST": ""}, {"AGENTKERNEL_HOST": "http://other:1"}):  # whose token that file has not
        assert located(environment | said) == environment | said


def test_a_token_of_the_environment_is_not_told_to_another_server() -> None:
    named = {"AGENTKERNEL_HOST": "http://one:1", "AGENTKERNEL_TOKEN": "ak_one"}

    def token_for(environment: dict[str, str], url: str) -> str | None:
        return environment_of(environment, local=False, socket=None, url=url, token=None).get("AGENTKERNEL_TOKEN")

    assert token_for(named, "http://one:1/") == "ak_one"
    assert token_for(named, "http://two:1") is None
    assert token_for({"AGENTKERNEL_TOKEN": "ak_one"}, "http://two:1") == "ak_one"


def test_a_client_has_one_daemon() -> None:
    with pytest.raises(InvalidInput, match="one daemon"):
        AsyncClient(local=True, url="http://box:1")
    with pytest.raises(InvalidInput, match="a token is for"):
        AsyncClient(token="ak_x")


def test_a_server_serves_the_daemon_of_its_own_machine_alone() -> None:
    with pytest.raises(InvalidInput, match="its own machine"):
        Daemon({"AGENTKERNEL_HOST": "http://box:1"}, Caller(principal="1000", scopes=frozenset({"read-only"})))


def _response(status: str, body: str = "", *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", body]).encode()


def _envelope(code: str, error: str) -> str:
    return json.dumps({"success": False, "error": error, "code": code, "hint": "do this"})


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (_response("404 Not Found", _envelope("not_found", "there is no such route")), DoorMissing, "no door for clients"),
        (_response("200 OK", "<html>"), DoorMissing, "it answered 200"),
        (_response("418 I'm a teapot", "{}"), DoorMissing, "it answered 418"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", DoorMissing, "speaks no HTTP"),
        (b"", ServerUnavailable, "no server answers"),
        (_response("503 Service Unavailable", _envelope("daemon_unavailable", "no daemon there")), ServerUnavailable, "no daemon there"),
        (_response("429 Too Many Requests", _envelope("busy", "too much at once")), AgentKernelError, "too much at once"),
        (_response("403 Forbidden", _envelope("refused", "no such host name here")), AgentKernelError, "no such host name here"),
        (_response("422 No", _envelope("unsupported", "there is no daemon behind it")), Unsupported, "no daemon behind it"),
        (_response("400 No", _envelope("daemon_unavailable", "a lie")), ServerUnavailable, "a lie"),
        (_response("500 No", "{"), ServerUnavailable, "it answers 500"),
    ],
)
async def test_what_answers_is_told_from_a_server(answer: bytes, kind: type[AgentKernelError], says: str) -> None:
    with answering(answer) as port:
        environment = {"AGENTKERNEL_HOST": f"http://127.0.0.1:{port}", "AGENTKERNEL_TOKEN": "ak_x"}
        with pytest.raises(kind, match=says) as refused, Calls(environment) as calls:
            calls.connect()
        assert refused.value.hint
        async with AsyncClient(url=f"http://127.0.0.1:{port}", token="ak_x") as client:
            with pytest.raises(kind, match=says):
                await client.list()


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names none; what is set with it goes again."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "localhost", "LOCALHOST"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_no_proxy_is_asked_the_way_to_this_machine(no_proxies: pytest.MonkeyPatch, variable: str, host: str) -> None:
    with answering(_response("407 Proxy Authentication Required")) as port:
        no_proxies.setenv(variable, f"http://127.0.0.1:{port}")
        with pytest.raises(ConnectionError):
            tunnel.open_tunnel(parse_elsewhere(f"http://{host}:{nobody()}"))


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (
            _response("407 Proxy Authentication Required"),
            ServerUnavailable,
            "does not let us through to https://ci.example.com: it answered 407",
        ),
        (_response("403 Forbidden"), ServerUnavailable, "it answered 403"),
        (_response("503 Service Unavailable"), ServerUnavailable, "no server answers at .*: the proxy on the way answers 503"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ServerUnavailable, "the proxy on the way to https://ci.example.com cannot be used"),
        (b"", ServerUnavailable, "prox"),
    ],
)
def test_a_proxy_that_does_not_let_us_through_is_told_from_the_server(
    no_proxies: pytest.MonkeyPatch, answer: bytes, kind: type[AgentKernelError], says: str
) -> None:
    with answering(answer) as port:
        no_proxies.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{port}")
        with pytest.raises(kind, match=says) as refused, Calls({"AGENTKERNEL_HOST": "https://ci.example.com"}) as calls:
            calls.connect()
        assert refused.value.hint and "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("proxy", "kind", "says"),
    [
        ("ftp://user:secret@proxy:21", InvalidInput, "the proxy on the way to https://ci.example.com is none: scheme ftp"),
        ("http://127.0.0.1:1/path?secret", InvalidInput, "is none"),
        ("socks5://user:secret@127.0.0.1:1", Unsupported, "takes the package python-socks"),
        ("http://user:secret@127.0.0.1:1", ServerUnavailable, "of the proxy on the way, perhaps"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_line_and_a_hint(
    no_proxies: pytest.MonkeyPatch, proxy: str, kind: type[AgentKernelError], says: str
) -> None:
    if kind is Unsupported and importlib.util.find_spec("python_socks") is not None:
        pytest.skip("python-socks is installed")
    no_proxies.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(kind, match=says) as refused, Calls({"AGENTKERNEL_HOST": "https://ci.example.com"}) as calls:
        calls.connect()
    assert refused.value.hint and "secret" not in refused.value.message


def test_nobody_there_is_said_at_once() -> None:
    for url in (f"http://127.0.0.1:{nobody()}", f"https://127.0.0.1:{nobody()}", "unix:///nonexistent/daemon.sock"):
        with pytest.raises(ServerUnavailable, match="no server answers") as refused, Calls({"AGENTKERNEL_HOST": url}) as calls:
            calls.connect()
        assert refused.value.code == "server_unavailable" and refused.value.hint


def test_a_socket_of_something_else_is_told_from_a_daemons(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 100)
                with contextlib.suppress(ConnectionResetError):
                    while connection.recv(65536):  # until the client has had enough
                        pass

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ProtocolViolation, match="another protocol"), Calls({"AGENTKERNEL_HOST": f"unix://{tmp_path}/s"}) as calls:
            calls.connect()
        thread.join()


def test_another_minor_version_is_another_server() -> None:
    def headers(_: object, __: object, response: object) -> None:
        response.headers["agentkernel-version"] = "7.3.1"  # type: ignore[attr-defined]

    server = serve(lambda connection: None, "127.0.0.1", 0, subprotocols=[tunnel.SUBPROTOCOL], process_response=headers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        port = server.socket.getsockname()[1]
        with pytest.raises(VersionDiffers, match=f"of version 7.3.1, this client of {__version__}") as differs:
            tunnel.open_tunnel(parse_elsewhere(f"http://127.0.0.1:{port}"))
        assert "agentkernel==7.3.*" in differs.value.hint
    finally:
        server.shutdown()
        thread.join()


def test_a_certificate_of_nobody_is_not_trusted(tmp_path: Path) -> None:
    _, own = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True)
                except (ssl.SSLError, OSError) as error:
                    seen.append(error)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(CertificateUntrusted, match="cannot be trusted") as refused:
            tunnel.open_tunnel(parse_elsewhere(f"https://localhost:{listener.getsockname()[1]}", "ak_never_sent"))
        thread.join()
    assert seen and refused.value.code == "certificate_untrusted" and "SSL_CERT_FILE" in refused.value.hint


def test_a_server_without_tls_is_no_https_server() -> None:
    with answering(_response("400 Bad Request")) as port, pytest.raises(DoorMissing, match="speaks no TLS"):
        tunnel.open_tunnel(parse_elsewhere(f"https://127.0.0.1:{port}", "ak_never_sent"))


def test_a_socket_is_where_the_program_means_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = environment_of({}, local=False, socket="run/daemon.sock", url=None, token=None)
    assert found == {"AGENTKERNEL_SOCKET": str(tmp_path / "run" / "daemon.sock")}
