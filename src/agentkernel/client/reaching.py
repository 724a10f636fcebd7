"""The way to a daemon elsewhere: through a server, or over a socket that somebody has brought here (with ssh, say)."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Final

from agentkernel import client as late  # what only a server needs
from agentkernel.abc import Caller
from agentkernel.channel.preface import encode_preface
from agentkernel.config.elsewhere import UNIX, Elsewhere
from agentkernel.errors import ServerUnavailable, Unsupported
from agentkernel.model.request import SandboxRequest

# Whatever is at the socket's other end, what this machine's paths name is not there.
_FROM_AFAR: Final = encode_preface(Caller(principal="", remote=True))
_EXTRA: Final = "remote"
_INSTEAD: Final = "`agentkernel cp` copies files, -e NAME passes a variable, an image comes from a registry"
_CALLED: Final = {
    "mounts": "a mount",
    "directory": "a directory",
    "image": "an image that is a file",
    "mount_cwd": "the working directory",
    "mount_home": "the home directory",
    "pass_environment": "the whole environment",
}


def reach(elsewhere: Elsewhere) -> socket.socket:
    """A connected, blocking socket on which HELLO comes next.

    Raises:
        ConnectionError: nothing answers there now.
        Unsupported: this takes a package that is not installed.
        AgentKernelError: what answers cannot be used; see `tunnel.open_tunnel`.
    """
    if elsewhere.scheme == UNIX:
        return _connected(elsewhere.path)
    try:
        return late.open_tunnel(elsewhere)
    except ModuleNotFoundError as missing:
        raise Unsupported(
            f"a daemon elsewhere is reached with the package {missing.name}", hint=f"pip install 'agentkernel[{_EXTRA}]'"
        ) from missing


def unanswered(elsewhere: Elsewhere, error: EOFError | ConnectionError) -> ServerUnavailable:
    """What there is to say when nothing answers, or nothing any more."""
    reason = getattr(error, "strerror", None) or str(error) or "the connection was closed"
    hint = (
        "is the daemon's socket there?"
        if elsewhere.scheme == UNIX
        else "is `agentkernel serve` running there, and the port reachable from here?"
    )
    return ServerUnavailable(f"no server answers at {elsewhere.url}: {reason}", hint=hint)


def without_surroundings(request: SandboxRequest) -> SandboxRequest:
    """The request without what nobody named: where on this machine it was made, and this machine's environment, with its secrets.

    Raises:
        Unsupported: it names files of this machine. There the same names would be other files, or nobody's business.
    """
    for named in request.of_its_machine():
        raise Unsupported(f"{_CALLED[named]} of this machine cannot be shown to a sandbox of a daemon elsewhere", hint=_INSTEAD)
    return replace(request, cwd="/", host_environment={}, mount_cwd=False)


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
        connection.sendall(_FROM_AFAR)
    except OSError as error:
        connection.close()
        raise ConnectionError(error.strerror or str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection
