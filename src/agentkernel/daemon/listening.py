"""The daemon's socket: made, or taken over from systemd; who may connect."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from typing import Final

from agentkernel.config.daemon_process import own_directory

_BACKLOG: Final = 512
_FIRST_PASSED: Final = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_CREDENTIALS: Final = struct.Struct("3i")


class Listener:
    """A listening unix socket, its file 0600 in a directory that nobody else can write. `close` removes the file if it is still its own."""

    def __init__(self, sock: socket.socket, path: str, *, owned: bool) -> None:
        self.socket = sock
        self.path = path
        self.owned = owned  # made here, not systemd's, which keeps it for the next daemon
        self._file = _file_of(path)

    def close(self) -> None:
        """Takes no more connections; those that wait in its queue are dropped, and their clients connect again."""
        if self.owned and self._file is not None and _file_of(self.path) == self._file:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self.socket.close()


def listen(path: str) -> Listener:
    """Makes the socket; one of a daemon that is gone is replaced. The caller holds the store: no other daemon serves.

    Raises:
        OSError: the directory is not ours, or cannot be written.
    """
    own_directory(os.path.dirname(path), closes=False)  # the socket's mode is what counts
    made = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(made)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        mask = os.umask(0o177)
        try:
            sock.bind(made)
        finally:
            os.umask(mask)
        sock.listen(_BACKLOG)
        os.replace(made, path)
    except BaseException:
        sock.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)
        raise
    return Listener(sock, path, owned=True)


def passed(environment: Mapping[str, str]) -> Listener | None:
    """The socket that systemd listens on for us (LISTEN_PID, LISTEN_FDS: sd_listen_fds(3)); None where there is none."""
    if environment.get("LISTEN_PID") != str(os.getpid()) or environment.get("LISTEN_FDS") != "1":
        return None
    sock = socket.socket(fileno=_FIRST_PASSED)
    if sock.family is not socket.AF_UNIX or sock.type is not socket.SOCK_STREAM:
        raise OSError("the socket that was passed is no unix stream socket")
    sock.setblocking(False)
    return Listener(sock, os.fsdecode(sock.getsockname()), owned=False)


def peer_of(connection: socket.socket) -> int:
    """The uid of who connected, as the kernel knows it."""
    return int(_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1])


def _file_of(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
