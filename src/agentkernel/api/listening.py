"""The sockets that the server listens on: an address, a path, or one that systemd has opened."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from agentkernel.errors import Conflict, InvalidInput

BACKLOG: Final = 1024
MAX_PORT: Final = 65535
_FIRST_PASSED: Final = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_PEER: Final = struct.Struct("3i")  # SO_PEERCRED: pid, uid, gid
# A host that vanished is noticed after about a minute and a half, also by who has nothing to send.
_KEEP_ALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))


@contextmanager
def at_address(host: str, port: int) -> Iterator[socket.socket]:
    """Listens at an address of this machine; port 0 is a free one.

    Raises:
        InvalidInput: there is no such address here, or no such port.
        Conflict: somebody listens there already.
    """
    if not 0 <= port <= MAX_PORT:
        raise InvalidInput(f"{port} is not the number of a port", hint=f"a port is 1 to {MAX_PORT}, or 0 for a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise InvalidInput(f"cannot listen at {host!r}: {error}", hint="--host takes an address or a name of this machine") from None
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE:
            if hasattr(socket, name):
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        try:
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            raise Conflict(
                f"cannot listen at {host}:{port}: {error.strerror}", hint="choose another with --port; 0 is a free one"
            ) from None
        listener.setblocking(False)
        yield listener


@contextmanager
def at_path(path: str) -> Iterator[socket.socket]:
    """Listens on a unix socket that only this user can open; one of a server that is gone is replaced, and at the end it is removed.

    Raises:
        InvalidInput: it cannot be made there.
        Conflict: a server listens there already.
    """
    _make_free(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        mask = os.umask(0o177)
        try:
            listener.bind(path)
        except OSError as error:
            raise InvalidInput(
                f"cannot listen at {path}: {error.strerror or error}", hint="--unix takes a path of 107 bytes at most"
            ) from None
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        own = _identity(path)
        try:
            yield listener
        finally:
            if own is not None and _identity(path) == own:
                os.unlink(path)


def passed(environment: Mapping[str, str]) -> socket.socket | None:
    """The socket that systemd listens on for us (LISTEN_PID, LISTEN_FDS: sd_listen_fds(3)); None where there is none."""
    if environment.get("LISTEN_PID") != str(os.getpid()) or environment.get("LISTEN_FDS") != "1":
        return None
    listener = socket.socket(fileno=_FIRST_PASSED)
    listener.setblocking(False)
    return listener


def is_unix(listener: socket.socket) -> bool:
    """Whether it is a unix socket, which only users of this machine reach."""
    return listener.family is socket.AF_UNIX


def is_loopback(listener: socket.socket) -> bool:
    """Whether only programs on this machine reach it."""
    return not is_unix(listener) and ipaddress.ip_address(_address(listener)).is_loopback


def is_everywhere(listener: socket.socket) -> bool:
    """Whether it listens at every address of this machine."""
    return not is_unix(listener) and ipaddress.ip_address(_address(listener)).is_unspecified


def names_of(listener: socket.socket) -> frozenset[str]:
    """The address that it listens at, as a Host header says it."""
    return frozenset() if is_unix(listener) else frozenset({_address(listener).lower()})


def is_ours(transport: asyncio.Transport) -> bool:
    """Whether the peer of a unix socket is the user of this process, or root."""
    peer = transport.get_extra_info("socket")
    if peer is None or not hasattr(socket, "SO_PEERCRED"):
        return peer is not None  # where the socket's mode must do
    _, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return uid in (0, os.geteuid())


def url_of(listener: socket.socket, scheme: str) -> str:
    """Where clients find it; of a unix socket, `unix://` and its path."""
    if is_unix(listener):
        return f"unix://{os.fsdecode(listener.getsockname())}"
    address, port = _address(listener), listener.getsockname()[1]
    if is_everywhere(listener):
        address = "::1" if ":" in address else "127.0.0.1"
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"


def _address(listener: socket.socket) -> str:
    return str(listener.getsockname()[0]).partition("%")[0]


def _make_free(path: str) -> None:
    """Removes what a server has left that is gone.

    Raises:
        Conflict: a server answers at that path.
        InvalidInput: something else lies there.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise InvalidInput(f"{path} is there, and is no socket", hint="choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except OSError as error:
        raise InvalidInput(f"cannot listen at {path}: {error.strerror or error}") from None
    raise Conflict(f"a server listens at {path} already", hint="choose another path, or end it")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
