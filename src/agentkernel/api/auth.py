"""Who asks: from the token of a request to the caller that the kernel knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from agentkernel.abc import Caller
from agentkernel.api.guards import Headers, one
from agentkernel.config.tokens import Token, TokenStore
from agentkernel.errors import Unauthorized

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
        token = self._tokens.find(_secret(one(headers, b"authorization")))
        if token is None:
            raise Unauthorized("Invalid bearer token", hint=_HINT)
        caller = self._known.get(token)
        if caller is None:
            caller = self._known[token] = replace(self._caller, scopes=token.scopes, via=token.name)
        return caller

    def ended(self) -> list[Caller]:
        """Whose tokens were removed since the last time: what they have under way is to end."""
        if self._tokens is None or not self._known:
            return []
        good = set(self._tokens.entries())
        gone = [token for token in self._known if token not in good]
        return [self._known.pop(token) for token in gone]


def _secret(authorization: bytes | None) -> str:
    if authorization is None:
        raise Unauthorized("Missing Authorization header", hint=_HINT)
    scheme, _, secret = authorization.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized("Invalid authorization format. Use: Bearer <token>", hint=_HINT)
    return secret.strip()
