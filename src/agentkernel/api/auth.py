"""Who asks: from the token of a request to the caller that the kernel knows."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from agentkernel.abc import Caller
from agentkernel.api.guards import Headers, one
from agentkernel.config.removal import removed
from agentkernel.config.tokens import Token, TokenStore
from agentkernel.errors import InvalidInput, StoreFailed, Unauthorized

LOG: Final = logging.getLogger("agentkernel.api")
OPEN_PATHS: Final = frozenset({"/health"})  # need no token
_HINT = "on the server's machine, `agentkernel config token` prints one; send it as `Authorization: Bearer TOKEN`"


class Authority:
    """Knows the caller of each request."""

    def __init__(self, caller: Caller, tokens: TokenStore | None) -> None:
        self._caller = caller
        self._tokens = tokens
        self._known: dict[Token, Caller] = {}

    def caller(self, headers: Headers) -> Caller:
        """The caller of a request with these headers. Raises Unauthorized."""
        if self._tokens is None:
            return self._caller
        token = self._found(self._tokens, _secret(one(headers, b"authorization")))
        if token is None:
            raise Unauthorized("Invalid bearer token", hint=_HINT)
        caller = self._known.get(token)
        if caller is None:
            caller = self._known[token] = replace(self._caller, scopes=token.scopes, via=token.name)
        return caller

    def _found(self, tokens: TokenStore, secret: str) -> Token | None:
        try:
            return tokens.find(secret)
        except InvalidInput as error:  # of the file: no fault of who asks, and not his to know
            LOG.error("no token is taken: %s", error.message)
            raise StoreFailed("the server's tokens cannot be read", hint="its log says why") from error

    def ended(self) -> list[Caller]:
        """Whose tokens were removed since the last time: what they have under way is to end."""
        if self._tokens is None:
            return []
        return [self._known.pop(token) for token in removed(self._tokens, self._known)]


def _secret(authorization: bytes | None) -> str:
    if authorization is None:
        raise Unauthorized("Missing Authorization header", hint=_HINT)
    scheme, _, secret = authorization.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized("Invalid authorization format. Use: Bearer <token>", hint=_HINT)
    return secret.strip()
