"""A daemon elsewhere: where it is, and what lets one in. On the path of every verb that asks the daemon: imports little.

AGENTKERNEL_HOST names it: `https://HOST[:PORT][/PREFIX]` or `http://...`, a server (`agentkernel serve`) with the daemon behind it; or
`unix:///PATH`, the daemon's own socket, wherever that has been brought from. AGENTKERNEL_TOKEN is the token for a server, or
AGENTKERNEL_TOKEN_FILE the file that holds it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agentkernel import config as late  # what only a configuration file needs
from agentkernel.config.places import find_places
from agentkernel.errors import InvalidInput

HOST: Final = "AGENTKERNEL_HOST"
TOKEN: Final = "AGENTKERNEL_TOKEN"  # noqa: S105 - a name
TOKEN_FILE: Final = "AGENTKERNEL_TOKEN_FILE"  # noqa: S105 - a name
UNIX: Final = "unix"
_PORTS: Final = {"http": 80, "https": 443}
_MAX_TOKEN: Final = 4096
_URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\]|[^\s/?#@:\[\]]+)(?::([0-9]{1,5}))?(/[^\s?#]*)?")
_HINT: Final = "write http://HOST:PORT, https://HOST or unix:///PATH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Where the daemon is. `path` is the socket's, or what stands before the routes of the server; without a slash at its end."""

    url: str  # as people are told; holds no secret
    scheme: str  # http, https or unix
    host: str = ""
    port: int = 0
    path: str = ""
    token: str = field(default="", repr=False)


def elsewhere_of(environment: Mapping[str, str]) -> Elsewhere | None:
    """What the environment says of it; None: the daemon is this machine's own.

    Raises:
        InvalidInput: that is no place, or the token cannot be read.
    """
    given = environment.get(HOST, "")
    return parse_elsewhere(given, token_of(environment)) if given else None


def parse_elsewhere(text: str, token: str = "") -> Elsewhere:
    """Reads the name of a daemon elsewhere. Raises InvalidInput."""
    if text.startswith("unix://"):
        path = text.removeprefix("unix://")
        if not path.startswith("/") or path == "/" or "\0" in path:
            raise InvalidInput(f"{text!r} names no socket", hint="write unix:///PATH, with an absolute path")
        return Elsewhere(url=text, scheme=UNIX, path=path)
    found = _URL.fullmatch(text)
    if found is None:
        shown = "it" if "@" in text else repr(text)  # what stands before an @ is secret
        raise InvalidInput(f"a daemon elsewhere is named by a URL without user, query and fragment, which {shown} is not", hint=_HINT)
    scheme, host, port, path = found.groups()
    number = _PORTS[scheme] if port is None else int(port)
    if not 0 < number < 65_536:
        raise InvalidInput(f"{port} is no port", hint=_HINT)
    path = (path or "").rstrip("/")
    where = host if port is None else f"{host}:{number}"
    return Elsewhere(url=f"{scheme}://{where}{path}", scheme=scheme, host=host.strip("[]"), port=number, path=path, token=token)


def token_of(environment: Mapping[str, str]) -> str:
    """The token that the environment gives; empty: none. Raises InvalidInput for a file that cannot be read, or holds no token."""
    if given := environment.get(TOKEN, "").strip():
        return _checked(given, TOKEN)
    path = environment.get(TOKEN_FILE, "")
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_TOKEN + 2)
    except OSError as error:
        raise InvalidInput(f"the token's file {path} cannot be read: {error.strerror}", hint=f"{TOKEN_FILE} names it") from error
    return _checked(text.strip(), path)


def located(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The environment; where it does not say whether the daemon is elsewhere, with what the operator's and the user's files say of that.

    An AGENTKERNEL_HOST that is set but empty says: here. Raises what reading the files raises.
    """
    if HOST in environment:
        return environment
    places = find_places(environment)
    if not any(map(os.path.lexists, (places.user, places.operator))):
        return environment
    settings = late.users_settings(cwd="/", environment={}, flags={}, places=places)
    host, token_file = settings.get("host"), settings.get("token_file")
    if not host:
        return environment
    more = {HOST: host}
    if token_file and TOKEN_FILE not in environment:
        more[TOKEN_FILE] = token_file
    return {**environment, **more}


def _checked(token: str, where: str) -> str:
    if not token or len(token) > _MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInput(f"{where} holds no token", hint="`agentkernel config token` prints one, on the machine of the server")
    return token
