"""A stream to a daemon elsewhere, as a plain socket: its bytes go through a WebSocket to the server that stands before that daemon.

The only module of the client that speaks HTTP. What it opens is one end of a pair of sockets; two threads copy between the other end and
the WebSocket, so that blocking calls and event loops read and write it like the daemon's own socket.
"""

from __future__ import annotations

import atexit
import json
import socket
import ssl
import threading
from contextlib import ExitStack
from typing import Final

from websockets.exceptions import (
    ConnectionClosed,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    ProxyError,
    WebSocketException,
)
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from agentkernel import __version__
from agentkernel.channel.refusal import revive
from agentkernel.client import proxies
from agentkernel.config.elsewhere import Elsewhere
from agentkernel.errors import (
    AgentKernelError,
    CertificateUntrusted,
    DaemonUnavailable,
    DoorMissing,
    ServerUnavailable,
    Unauthorized,
    VersionDiffers,
)

SUBPROTOCOL: Final = Subprotocol("agentkernel.door.v1")
VERSION_HEADER: Final = "agentkernel-version"
OPEN_S: Final = 10.0  # to connect, with TLS and the upgrade
_CLOSE_S: Final = 5.0  # for the server to answer our goodbye
_AT_EXIT_S: Final = 2.0  # for the last bytes of a process that ends
_CHUNK_BYTES: Final = 256 * 1024
_MESSAGE_BYTES: Final = 1024 * 1024
# A peer that has vanished is noticed by these, not by pings of the WebSocket: whoever reads slowly does not answer those in time.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_TOKEN_HINT: Final = "AGENTKERNEL_TOKEN is to be what `agentkernel config token` or `agentkernel token create` prints on that machine"  # noqa: S105 - a hint


def open_tunnel(elsewhere: Elsewhere) -> socket.socket:
    """A connected, blocking socket with the daemon's door at its other end; blocks for `OPEN_S` seconds at most.

    Raises:
        ConnectionError: nothing answers there now; later something may.
        CertificateUntrusted, VersionDiffers, DoorMissing, ServerUnavailable, Unauthorized: what answers cannot be used.
        InvalidInput, Unsupported: the proxy of this process's environment cannot be used.
        AgentKernelError: what the server refuses with.
    """
    with ExitStack() as stack:
        websocket = stack.enter_context(_connected(elsewhere))
        _check_version(elsewhere, websocket)
        ours, theirs = socket.socketpair()
        pump = _Pump(theirs, websocket, stack.pop_all())
    pump.start()
    return ours


class _Pump:
    """Copies both ways until one side ends; then both do."""

    def __init__(self, local: socket.socket, websocket: ClientConnection, held: ExitStack) -> None:
        self._local = local
        self._websocket = websocket
        self._held = held
        self._out = threading.Thread(target=self._send, name="agentkernel tunnel out", daemon=True)
        self._in = threading.Thread(target=self._receive, name="agentkernel tunnel in", daemon=True)

    def start(self) -> None:
        """Begins."""
        atexit.register(self._finish)
        self._in.start()
        self._out.start()

    def _send(self) -> None:
        try:
            while data := self._local.recv(_CHUNK_BYTES):
                self._websocket.send(data)
        except (OSError, WebSocketException):
            pass  # one of the sides is gone, which the other is told below
        finally:
            self._end()

    def _receive(self) -> None:
        try:
            while True:
                data = self._websocket.recv()
                self._local.sendall(data if isinstance(data, bytes) else data.encode())
        except (OSError, ConnectionClosed):
            pass  # as above
        finally:
            self._shut()  # which ends the other thread

    def _end(self) -> None:
        self._shut()
        self._held.close()  # says goodbye
        self._in.join()
        self._local.close()
        atexit.unregister(self._finish)

    def _shut(self) -> None:
        try:
            self._local.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is so already

    def _finish(self) -> None:
        """The process ends: what was written still goes, if it goes soon."""
        try:
            self._local.shutdown(socket.SHUT_RD)  # what is in it already is read before its end
        except OSError:
            pass
        self._out.join(_AT_EXIT_S)


def _connected(elsewhere: Elsewhere) -> ClientConnection:
    secure = elsewhere.scheme == "https"
    host = f"[{elsewhere.host}]" if ":" in elsewhere.host else elsewhere.host
    try:
        websocket = connect(
            f"{'wss' if secure else 'ws'}://{host}:{elsewhere.port}{elsewhere.path}/door",
            ssl=ssl.create_default_context() if secure else None,
            subprotocols=[SUBPROTOCOL],
            additional_headers={"Authorization": f"Bearer {elsewhere.token}"} if elsewhere.token else None,
            user_agent_header=f"agentkernel/{__version__}",
            compression=None,  # a small message may hold a large one
            proxy=None if proxies.is_loopback(elsewhere.host) else True,
            open_timeout=OPEN_S,
            ping_interval=None,
            close_timeout=_CLOSE_S,
            max_size=_MESSAGE_BYTES,
        )
    except ssl.SSLCertVerificationError as error:
        raise CertificateUntrusted(
            f"the certificate of {elsewhere.url} cannot be trusted: {error.verify_message}",
            hint="if it should be, SSL_CERT_FILE names a file with the certificate of who signed it",
        ) from error
    except ssl.SSLError as error:
        raise DoorMissing(
            f"what answers at {elsewhere.url} speaks no TLS: {error.reason}", hint="perhaps it is an http:// server"
        ) from error
    except InvalidStatus as refused:
        raise _refusal(
            elsewhere, refused.response.status_code, refused.response.headers.get("Location", ""), refused.response.body
        ) from None
    except (InvalidProxy, ProxyError, ImportError) as error:
        raise proxies.refusal(elsewhere, error) from None  # its text has the proxy's password
    except InvalidMessage as error:
        if isinstance(error.__cause__, EOFError | OSError):
            raise ConnectionError("it closes the connection") from error
        raise DoorMissing(f"what answers at {elsewhere.url} speaks no HTTP", hint=_door_hint(elsewhere)) from error
    except ConnectionClosed as error:
        raise ConnectionError("it closes the connection") from error
    except WebSocketException as error:
        raise DoorMissing(
            f"what answers at {elsewhere.url} has no door that this client knows: {error}", hint=_door_hint(elsewhere)
        ) from error
    except TimeoutError as error:
        raise ConnectionError(f"no answer within {OPEN_S:g} s") from error
    except OSError as error:  # nobody listens there, there is no such name, or no way to it
        raise ConnectionError(f"{error.strerror or error}{proxies.suspicion(elsewhere)}") from error
    _keep_alive(websocket.socket)
    return websocket


def _refusal(elsewhere: Elsewhere, status: int, location: str, body: bytes | bytearray | None) -> Exception:
    """The error of an answer that is no upgrade."""
    said = _said(body)
    if status in proxies.LATER:
        return ConnectionError(said.message if said is not None else f"it answers {status}")
    if status == 401:
        if not elsewhere.token:
            return Unauthorized(f"the server at {elsewhere.url} wants a token, and there is none", hint=_TOKEN_HINT)
        return Unauthorized(f"the server at {elsewhere.url} does not take this token", hint=_TOKEN_HINT)
    if 300 <= status < 400:
        return DoorMissing(f"{elsewhere.url} redirects to {location[:200]!r}", hint="AGENTKERNEL_HOST is to name the server itself")
    if status == 404 or said is None:
        return DoorMissing(f"what answers at {elsewhere.url} has no door for clients: it answered {status}", hint=_door_hint(elsewhere))
    if isinstance(said, DaemonUnavailable):  # which would mean this machine's
        return ServerUnavailable(said.message, hint=said.hint)
    return said


def _said(body: bytes | bytearray | None) -> AgentKernelError | None:
    """The error in an envelope; None for what is no envelope."""
    try:
        envelope = json.loads(body or b"")
        if envelope["success"] is not False:
            return None
        return revive(str(envelope["code"]), str(envelope["error"]), hint=str(envelope.get("hint") or ""))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _door_hint(elsewhere: Elsewhere) -> str:
    return f"is it `agentkernel serve`, of version {_minor(__version__)}, that listens at {elsewhere.host}:{elsewhere.port}?"


def _check_version(elsewhere: Elsewhere, websocket: ClientConnection) -> None:
    """Versions that differ in the first two numbers may mean other things by the same words."""
    response = websocket.response
    theirs = response.headers.get(VERSION_HEADER, "") if response is not None else ""
    if websocket.subprotocol != SUBPROTOCOL or not theirs:
        raise DoorMissing(f"what answers at {elsewhere.url} is no agentkernel server", hint=_door_hint(elsewhere))
    if _minor(theirs) != _minor(__version__):
        raise VersionDiffers(
            f"the server at {elsewhere.url} is of version {theirs[:40]}, this client of {__version__}",
            hint=f"use the same here: pip install 'agentkernel=={_minor(theirs)[:40]}.*'",
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
