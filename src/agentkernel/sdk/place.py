"""Which daemon a client means, as the environment that its kernel is made from."""

from __future__ import annotations

import os
from collections.abc import Mapping

from agentkernel.config.elsewhere import HOST, TOKEN, TOKEN_FILE, parse_elsewhere
from agentkernel.errors import InvalidInput


def environment_of(
    environment: Mapping[str, str], *, local: bool, socket: str | None, url: str | None, token: str | None
) -> dict[str, str]:
    """The program's environment, with what the client's arguments say in place of what it says.

    Raises:
        InvalidInput: they name two daemons, or none; or a token goes with no server.
    """
    found = dict(environment)
    if sum((local, socket is not None, url is not None)) > 1:
        raise InvalidInput("a client has one daemon", hint="give one of local, socket and url")
    if local or socket is not None:
        found.pop(HOST, None)
    if socket is not None:
        found["AGENTKERNEL_SOCKET"] = os.path.abspath(socket)  # the daemon that is started for it works in another directory
    if url is not None:
        wanted = parse_elsewhere(url).url
        if token is None and found.get(HOST) and parse_elsewhere(found[HOST]).url != wanted:
            found.pop(TOKEN, None)  # which is for that one
            found.pop(TOKEN_FILE, None)
        found[HOST] = wanted
    if token is not None:
        if not found.get(HOST):
            raise InvalidInput("a token is for a daemon elsewhere", hint="give its url, too")
        found[TOKEN] = token
        found.pop(TOKEN_FILE, None)
    return found
