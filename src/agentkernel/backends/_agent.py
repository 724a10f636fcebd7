"""The agent's socket as the host handles it: bound by the host, reached through a checked descriptor, and asked to end.

The socket lies in a directory of the host's that no sandbox can see. Nevertheless it is opened without following links and looked at before
anything is said to it: what listens there obeys the host, and the host must not obey whoever put something else in its place.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
import time
from pathlib import Path
from typing import Final

from agentkernel.channel.frames import FrameType
from agentkernel.channel.wire import encode_frame, encode_hello, tag_of
from agentkernel.errors import SandboxFailed

SOCKET_NAME: Final = "agent.sock"
_BACKLOG = 8
_PATH_BYTES = 107  # of sun_path (unix(7))
_PATIENCE_S = 10.0
_PAUSE_S = 0.005
_CREDENTIALS = struct.Struct("3i")


def listen(directory: Path) -> socket.socket:
    """Makes the agent's listening socket in the sandbox's own directory, which nobody else can enter."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path = str(directory / SOCKET_NAME)
        if len(os.fsencode(path)) <= _PATH_BYTES:
            listener.bind(path)
        else:
            parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                listener.bind(f"/proc/self/fd/{parent}/{SOCKET_NAME}")
            finally:
                os.close(parent)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def connect(path: Path, *, owner: int | None = None, pid: int | None = None) -> socket.socket:
    """Connects, without waiting: the socket returned is non-blocking.

    `owner`: whose the socket must be, this user's by default; `pid`: which process must listen on it, where that is known.

    Raises:
        PermissionError: what is there is no socket, or not one that the owner made and listens on.
        OSError: nobody listens, or not now.
    """
    owner = os.geteuid() if owner is None else owner
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(place)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != owner:
            raise PermissionError(f"{path} is not a socket of uid {owner}")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{place}")
            # Whoever called listen(2): an engine of ours, perhaps an earlier one, or the agent itself.
            listener, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            if uid != owner or pid not in (None, listener):
                raise PermissionError(f"process {listener} of uid {uid} listens on {path}")
        except BaseException:
            connection.close()
            raise
    finally:
        os.close(place)
    return connection


async def end_unrecorded(path: Path) -> None:
    """Ends the agent of a boot that was cut short before its first process was recorded; nobody listening any more is fine.

    Such an agent was never configured, so nothing has run in it: it is believed to do what SHUTDOWN says. One that is still being
    launched ends by itself, since its launcher's caller is gone.

    Raises:
        SandboxFailed: it still listens after ten seconds.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            connection = connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except BlockingIOError:  # too many are waiting
            await asyncio.sleep(_PAUSE_S)
            continue
        with connection:
            await _shut_down(connection, deadline - time.monotonic())
    raise SandboxFailed("an agent that an interrupted boot left does not end", hint=f"see who listens on {path}")


async def _shut_down(connection: socket.socket, patience_s: float) -> None:
    """Says SHUTDOWN on an attach of its own and waits for the end of the stream."""
    epoch = b"\1" + os.urandom(15)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(patience_s):
            await loop.sock_sendall(connection, encode_hello(epoch) + encode_frame(tag_of(epoch), FrameType.SHUTDOWN, 1))
            while await loop.sock_recv(connection, 4096):
                pass
    except (TimeoutError, ConnectionError):
        return  # the caller looks again
