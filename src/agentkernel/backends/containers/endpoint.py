"""Where a container engine is, and streams to it: a unix socket, TCP with or without TLS, or a program that ssh starts.

As the engines' own command lines find it: what the environment names, the chosen context, then the usual places. Contexts and connections
are read from the user's own files, never from a project's.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import socket
import ssl
import subprocess
import threading
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from agentkernel.errors import BackendUnavailable

_TLS_PORT, _PLAIN_PORT = 2376, 2375
_CHUNK_BYTES = 65_536


class Transport(StrEnum):
    """How bytes get there."""

    UNIX = "unix"
    TCP = "tcp"
    SSH = "ssh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Files in PEM form; an empty name: the system's authorities, no certificate of ours."""

    authority: str = ""
    certificate: str = ""
    key: str = ""
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """For clients; raises OSError or ssl.SSLError when a file cannot be used."""
        made = ssl.create_default_context(cafile=self.authority or None)
        if not self.verify:  # the user's context says so
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        if self.certificate:
            made.load_cert_chain(self.certificate, self.key or None)
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One engine's address. `source` says who named it, for people."""

    transport: Transport
    address: str  # UNIX: the socket's path; TCP: host; SSH: user@host
    port: int = 0
    tls: Certificates | None = None
    identity: str = ""  # SSH: the key's file
    remote_program: tuple[str, ...] = ("docker", "system", "dial-stdio")  # SSH
    source: str = ""

    @property
    def is_socket(self) -> bool:
        """Whether it is a socket of this host's file system; what listens there may pass everything on to elsewhere."""
        return self.transport is Transport.UNIX

    def __str__(self) -> str:
        if self.transport is Transport.UNIX:
            return f"unix://{self.address}"
        return f"{self.transport}://{self.address}" + (f":{self.port}" if self.port else "")

    def open(self, timeout_s: float) -> socket.socket:
        """A connected stream, blocking with that timeout; raises OSError (ssl.SSLError is one)."""
        if self.transport is Transport.UNIX:
            return _unix(self.address, timeout_s)
        if self.transport is Transport.SSH:
            return _program(self._ssh(), timeout_s)
        connection = socket.create_connection((self.address, self.port), timeout_s)
        if self.tls is None:
            return connection
        try:
            return self.tls.context().wrap_socket(connection, server_hostname=self.address)
        except BaseException:
            connection.close()
            raise

    def _ssh(self) -> tuple[str, ...]:
        # BatchMode: nobody is there to be asked. `--`: no host name is an option.
        options = ["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
        if self.port:
            options += ["-p", str(self.port)]
        if self.identity:
            options += ["-i", self.identity]
        return ("ssh", *options, "--", self.address, shlex.join(self.remote_program))


def parse_endpoint(text: str, *, source: str, tls: Certificates | None = None, program: str = "docker", identity: str = "") -> Endpoint:
    """Reads `unix:///path`, `tcp://host:port`, `https://...`, `ssh://user@host[:port]` or a bare path; raises BackendUnavailable."""
    if text.startswith("/"):
        return Endpoint(transport=Transport.UNIX, address=text, source=source)
    try:
        parts = urlsplit(text)
        port, host = parts.port or 0, parts.hostname or ""
    except ValueError:
        raise _unreadable(text, source) from None
    if parts.scheme == "unix" and parts.path.startswith("/") and not host:
        return Endpoint(transport=Transport.UNIX, address=unquote(parts.path), source=source)
    if not host or host.startswith("-"):
        raise _unreadable(text, source)
    if parts.scheme in ("tcp", "http", "https"):
        secure = tls or (Certificates() if parts.scheme == "https" else None)
        usual = _TLS_PORT if secure else _PLAIN_PORT
        return Endpoint(transport=Transport.TCP, address=host, port=port or usual, tls=secure, source=source)
    if parts.scheme == "ssh":
        who = f"{unquote(parts.username)}@{host}" if parts.username else host
        remote = _dial_program(program, parts.path)
        return Endpoint(transport=Transport.SSH, address=who, port=port, identity=identity, remote_program=remote, source=source)
    raise _unreadable(text, source)


def _dial_program(program: str, path: str) -> tuple[str, ...]:
    """What joins its standard streams with the engine's socket there. A path that is named must be dialled itself."""
    if not path.strip("/"):
        return (program, "system", "dial-stdio")
    if program == "podman":
        return (program, "--url", f"unix://{path}", "system", "dial-stdio")
    return (program, "--host", f"unix://{path}", "system", "dial-stdio")


def _unreadable(text: str, source: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"{source} names {text!r}, which is no address of a container engine",
        hint="write unix:///run/docker.sock, tcp://host:2376 or ssh://user@host",
    )


def _unix(path: str, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
    try:
        connection.settimeout(timeout_s)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _program(argv: tuple[str, ...], timeout_s: float) -> socket.socket:
    """A stream whose other end is a program's standard input and output; it ends when the stream is closed."""
    program = shutil.which(argv[0])
    if program is None:
        raise FileNotFoundError(f"there is no {argv[0]} program")
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            started = subprocess.Popen(
                (program, *argv[1:]), stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL, start_new_session=True
            )
    except BaseException:
        ours.close()
        raise
    threading.Thread(target=started.wait, name="engine-ssh", daemon=True).start()  # so that no zombie stays
    ours.settimeout(timeout_s)
    return ours


def plain_stream(stream: socket.socket) -> socket.socket:
    """The same stream as a socket whose bytes are what was said: of one with TLS, the near end of a pair that a thread passes on.

    The channel waits for readiness of a descriptor, and TLS keeps bytes back that no descriptor tells of.
    """
    if not isinstance(stream, ssl.SSLSocket):
        return stream
    ours, theirs = socket.socketpair()
    threading.Thread(target=_Relay(stream, theirs).run, name="engine-tls", daemon=True).start()
    return ours


class _Relay:
    """Passes bytes on between a stream with TLS and a plain one until either ends. One thread: OpenSSL wants no second one."""

    def __init__(self, secure: ssl.SSLSocket, plain: socket.socket) -> None:
        self._secure, self._plain = secure, plain
        self._inward = self._outward = b""  # read and not yet written
        self._over = False
        for end in (secure, plain):
            end.setblocking(False)

    def run(self) -> None:
        try:
            while not self._over:
                reading = [end for end, held in ((self._secure, self._inward), (self._plain, self._outward)) if not held]
                writing = [end for end, held in ((self._plain, self._inward), (self._secure, self._outward)) if held]
                if not self._secure.pending():
                    select.select(reading, writing, [])
                self._inward = self._step(self._secure, self._plain, self._inward)
                self._outward = self._step(self._plain, self._secure, self._outward)
        except (OSError, ValueError):
            pass  # an end is gone, and so is the stream: closing tells both
        finally:
            self._secure.close()
            self._plain.close()

    def _step(self, source: socket.socket, target: socket.socket, held: bytes) -> bytes:
        if not held:
            try:
                held = source.recv(_CHUNK_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return b""
            self._over = self._over or not held
        try:
            return held[target.send(held) :] if held else b""
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return held


def is_served(endpoint: Endpoint) -> bool:
    """Whether there may be somebody: for a unix socket, that it is there and may be written to; for all others yes."""
    return not endpoint.is_socket or os.access(endpoint.address, os.R_OK | os.W_OK)
