"""A sandbox's secrets at the egress process: which placeholder may become which value where, and everything else that holds one refused.

Values are in this process's memory and in what it sends to the bound hosts; no decision, error or log names one.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from agentkernel.egress.attempt import RefusedError
from agentkernel.egress.http import Request
from agentkernel.egress.http_response import Response
from agentkernel.egress.tls_stream import client_context, server_context
from agentkernel.model.network import Credentials, Secret
from agentkernel.model.secrets import describe, host_and_port, is_below

UNAVAILABLE: Final = "secret_unavailable"
REFUSED: Final = "secret_refused"
_GIVE_AGAIN: Final = "agentkernel stop NAME; agentkernel start NAME --secret {name}=ENV:VARIABLE"
_BASIC = re.compile(rb"(?i:(basic)) +([A-Za-z0-9+/=]+)")
# By which frameworks take another method or path than the request line's; names as CGI has them, which knows no difference of _ and -.
_METHOD_OVERRIDES: Final = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
_PATH_OVERRIDES: Final = frozenset({b"x-original-url", b"x-rewrite-url"})
_UNESCAPES: Final = 3  # as often as a URL is unescaped to look for what it hides


class Filled(NamedTuple):
    """A request with values in it."""

    request: Request
    used: tuple[str, ...]  # names of the secrets
    encoded: dict[bytes, bytes]  # what Basic credentials became, in base64, and what they were


class Vault:
    """What one sandbox has; replaced when that changes."""

    def __init__(self, credentials: Credentials, trust: str = "") -> None:
        """`trust`: the certificates (PEM) that this host trusts; empty: what OpenSSL finds."""
        self._trust = trust
        self._client: ssl.SSLContext | None = None
        self._servers: dict[str, ssl.SSLContext] = {}
        self._secrets = {secret.placeholder.encode(): secret for secret in credentials.secrets}
        self._values = {name: value.encode() for name, value in credentials.values.items()}
        self._leaves = credentials.leaves
        self._hosts = {place for secret in credentials.secrets for place in map(host_and_port, secret.hosts)}
        self._any = re.compile(b"|".join(map(re.escape, self._secrets)) or b"(?!)", re.IGNORECASE)

    def is_bound(self, host: str, port: int) -> bool:
        """Whether connections there are taken out of their TLS; `host` as `normal_host` gives it."""
        return (host, port) in self._hosts

    def check_reachable(self, host: str, port: int) -> None:
        """Raises RefusedError for a bound host without a certificate (any more): nobody could see what is sent there."""
        if self.is_bound(host, port) and host not in self._leaves:
            names = [secret.name for secret in self._secrets.values() if (host, port) in map(host_and_port, secret.hosts)]
            raise _unavailable(names[0])

    def server_context(self, host: str, port: int) -> ssl.SSLContext:
        """To be a bound host towards the sandbox; raises RefusedError as `check_reachable` does."""
        self.check_reachable(host, port)
        context = self._servers.get(host)
        if context is None:
            context = self._servers[host] = server_context(self._leaves[host])
        return context

    def client_context(self) -> ssl.SSLContext:
        """To be a client of the real servers."""
        if self._client is None:
            self._client = client_context(self._trust)
        return self._client

    def check_host(self, host: str) -> None:
        """Raises RefusedError for a host's name that holds a placeholder."""
        self._refuse_in(host.encode("latin-1", "replace"), "the name of a host")

    def check_plain(self, request: Request) -> None:
        """Raises RefusedError for a placeholder in a request that is not encrypted, wherever it goes."""
        self._refuse_in(_unescaped(request.target.encode()), "a request that is not encrypted")
        for name, value in request.fields:
            self._refuse_in(name, "the name of a header")
            self._refuse_in(_decoded(value), "a request that is not encrypted")

    def filled(self, request: Request) -> Filled:
        """The request for a bound host with values in place of placeholders.

        Raises:
            RefusedError: a placeholder stands where its secret may not go, or its value is not had any more.
        """
        self._refuse_in(_unescaped(request.target.encode()), "a URL")
        used: dict[str, None] = {}
        encoded: dict[bytes, bytes] = {}

        def fill(name: bytes, value: bytes) -> bytes:
            self._refuse_in(name, "the name of a header")
            if not self._any.search(_decoded(value)):
                return value
            basic = _BASIC.fullmatch(value)
            if basic is not None and (plain := _base64(basic[2])) is not None and self._any.search(plain):
                made = base64.b64encode(self._replaced(plain, name, request, used))
                encoded[made] = basic[2]
                return basic[1] + b" " + made
            return self._replaced(value, name, request, used)

        try:
            return Filled(request.with_values(fill), tuple(used), encoded)
        except ValueError:  # it was checked when it was given, so this is about what stands round it
            raise RefusedError("with its value in place a header would be none", rule="secret", code=REFUSED) from None

    def hidden(self, response: Response, encoded: Mapping[bytes, bytes]) -> Response:
        """The response with placeholders where its head repeats a value; `encoded` is of the request that it answers."""
        pairs = [
            (spelling, placeholder)
            for placeholder, secret in self._secrets.items()
            if (value := self._values.get(secret.name))
            for spelling in {value, quote(value, safe="").encode(), base64.b64encode(value)}
        ]
        pairs = [*encoded.items(), *pairs]  # what is longer first

        def hide(text: bytes) -> bytes:
            for spelling, placeholder in pairs:
                text = text.replace(spelling, placeholder)
            return text

        if not any(
            spelling in text for spelling, _ in pairs for text in (response.reason, *(each for pair in response.fields for each in pair))
        ):
            return response
        fields = tuple((hide(name), hide(value)) for name, value in response.fields)
        return replace(response, reason=hide(response.reason), fields=fields)

    def _replaced(self, text: bytes, header: bytes, request: Request, used: dict[str, None]) -> bytes:
        def value(found: re.Match[bytes]) -> bytes:
            secret = self._secrets.get(found[0])
            if secret is None:  # in other letters: a server would not take it for the same either
                raise _refused(self._named(found[0]), "a header, in other letters")
            _check(secret, header.decode("ascii"), request)
            if secret.name not in self._values:
                raise _unavailable(secret.name)
            used[secret.name] = None
            return self._values[secret.name]

        return self._any.sub(value, text)

    def _refuse_in(self, text: bytes, where: str) -> None:
        found = self._any.search(text)
        if found is not None:
            raise _refused(self._named(found[0]), where)

    def _named(self, placeholder: bytes) -> Secret:
        return self._secrets[placeholder.lower()]


def _check(secret: Secret, header: str, request: Request) -> None:
    """Raises RefusedError for a request that the secret is not bound to."""
    if (request.host, request.port) not in map(host_and_port, secret.hosts):
        raise _refused(secret, f"a request to {request.host}")
    if secret.method and request.method != secret.method:
        raise _refused(secret, f"a request with method {request.method}")
    if not is_below(request.target.partition("?")[0].encode(), secret.path):
        raise _refused(secret, "a request with another path")
    said = {name.lower().replace(b"_", b"-") for name, _ in request.fields}
    if (secret.method and said & _METHOD_OVERRIDES) or (secret.path and said & _PATH_OVERRIDES):
        raise _refused(secret, "a request that a header makes another one")
    if secret.header and header != secret.header:
        raise _refused(secret, f"the header {header}")


def _refused(secret: Secret, where: str) -> RefusedError:
    return RefusedError(
        f"the placeholder of {secret.name} stands in {where}",
        rule=f"secret {secret.name}",
        code=REFUSED,
        hint=f"it may go to {describe(secret)}, in a header over TLS, and nowhere else",
    )


def _unavailable(name: str) -> RefusedError:
    return RefusedError(
        f"the value of {name} is not had any more: agentkernel keeps it in memory alone, and has been started anew",
        rule=f"secret {name}",
        code=UNAVAILABLE,
        hint=f"ask for: {_GIVE_AGAIN.format(name=name)}",
    )


def _decoded(value: bytes) -> bytes:
    """A field's value, and behind it what it says in base64 where it is Basic credentials."""
    basic = _BASIC.fullmatch(value)
    return value + b"\n" + (_base64(basic[2]) or b"") if basic is not None else value


def _base64(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None


def _unescaped(text: bytes) -> bytes:
    """A URL with what its escapes stand for behind it."""
    texts = [text]
    for _ in range(_UNESCAPES):
        texts.append(unquote_to_bytes(texts[-1]))
        if texts[-1] == texts[-2]:
            break
    return b"\n".join(texts)
