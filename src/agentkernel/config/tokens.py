"""Tokens: who may use the HTTP API and the remote door, and for what. Only their digests are kept.

`tokens.json` in the data directory lists them; `token` beside it holds the one named `default`, so that it can be shown again. Both are
readable by their user alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from agentkernel.config.directories import data_directory
from agentkernel.config.places import check_authority
from agentkernel.config.privatefile import exclusive, write_private
from agentkernel.config.rawfile import read_raw
from agentkernel.errors import Conflict, InvalidInput, NotFound, UnknownKey
from agentkernel.model.names import suggest

FORMAT: Final = 1
DEFAULT: Final = "default"
MAX_TOKENS: Final = 256
PREFIX: Final = "ak_"
SCOPES: Final[Mapping[str, str]] = {
    "full": "everything with your sandboxes, but nothing that reads this host's files",
    "host": "beside another: may name files of this host (mounts, images as files) as you can here",
    "run-only": "one command at a time, each in a sandbox of its own",
    "read-only": "looking: lists, descriptions, logs, the audit trail",
}
_SANDBOX = "sandbox:"
_RANDOM_BYTES = 32
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_SECRET = rf"{PREFIX}[A-Za-z0-9_-]{{43}}"
_DIGEST = r"[0-9a-f]{64}"
_SUBJECT = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is known of a token: not the token itself, but the SHA-256 of it, in hexadecimal. `created_at` in seconds since 1970."""

    name: str
    scopes: frozenset[str]
    sha256: str
    created_at: float


class TokenStore:
    """The user's tokens. Changes are atomic and exclude each other; a change by another process is seen by the next question."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._directory = data_directory(environment, os.geteuid())
        self._path = f"{self._directory}/tokens.json"
        self._default_path = f"{self._directory}/token"
        self._seen: tuple[int, int, int] | None = None
        self._entries: tuple[Token, ...] = ()

    def entries(self) -> tuple[Token, ...]:
        """All tokens, by name. Costs one stat while the file is as it was.

        Raises:
            InvalidInput: the file is damaged, or somebody else can write it; no token is good then.
        """
        try:
            status = os.stat(self._path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            self._seen, self._entries = None, ()
            return ()
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen != self._seen:
            self._seen, self._entries = None, self._read()
            self._seen = seen
        return self._entries

    def find(self, secret: str) -> Token | None:
        """The token that this is. Takes as long for a wrong one as for a right one. Raises what `entries` raises."""
        digest = _digest(secret)
        found = None
        for token in self.entries():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def create(self, name: str, scopes: Collection[str]) -> str:
        """Makes a token and returns it: it cannot be shown again.

        Raises:
            InvalidInput, UnknownKey: a name or a scope that cannot be.
            Conflict: there is one of that name.
        """
        secret, entry = _made(check_name(name), check_scopes(scopes))

        def added(tokens: tuple[Token, ...]) -> list[Token]:
            if any(token.name == name for token in tokens):
                raise Conflict(f"there is a token {name!r}", hint=f"agentkernel token remove {name}")
            if len(tokens) >= MAX_TOKENS:
                raise Conflict(f"there are {len(tokens)} tokens, which is the most", hint="agentkernel token remove NAME")
            return [*tokens, entry]

        with self._locked():
            self._change(added)
        return secret

    def remove(self, name: str) -> None:
        """Ends a token: no request with it is taken from now on. Raises NotFound."""

        def without(tokens: tuple[Token, ...]) -> list[Token]:
            left = [token for token in tokens if token.name != name]
            if len(left) == len(tokens):
                raise NotFound(f"there is no token {name!r}", hint="agentkernel token list")
            return left

        with self._locked():
            self._change(without)
            if name == DEFAULT:
                with suppress(FileNotFoundError):
                    os.unlink(self._default_path)

    def default(self) -> tuple[str, bool]:
        """The token named `default`, with scope `full`, and whether it was made just now, because there was none that could be shown."""
        with self._locked():
            secret = self._kept_default()
            if secret:
                return secret, False
            secret, entry = _made(DEFAULT, frozenset({"full"}))
            write_private(self._default_path, secret + "\n")
            self._change(lambda tokens: [*(token for token in tokens if token.name != DEFAULT), entry])
            return secret, True

    def _kept_default(self) -> str:
        """What the file of the default token holds, if that is a token; else nothing."""
        raw = read_raw(self._default_path)
        if raw is None:
            return ""
        check_authority(raw, owners=frozenset({os.geteuid()}))
        secret = raw.content.decode("ascii", "replace").strip()
        known = re.fullmatch(_SECRET, secret) and self.find(secret)
        return secret if known and known.name == DEFAULT else ""

    def _read(self) -> tuple[Token, ...]:
        raw = read_raw(self._path)
        if raw is None:
            return ()
        check_authority(raw, owners=frozenset({0, os.geteuid()}))
        try:
            data = json.loads(raw.content)
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}")
            return tuple(_from_json(item) for item in data["tokens"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InvalidInput(f"{self._path} is damaged ({error})", hint="remove it, and make your tokens again") from None

    def _change(self, edit: Callable[[tuple[Token, ...]], list[Token]]) -> None:
        tokens = sorted(edit(self.entries()), key=lambda token: token.name)
        said = [
            {"name": token.name, "scopes": sorted(token.scopes), "sha256": token.sha256, "created_at": token.created_at} for token in tokens
        ]
        write_private(self._path, json.dumps({"format": FORMAT, "tokens": said}, indent=1) + "\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        os.makedirs(self._directory, mode=0o711, exist_ok=True)  # sandboxes' ids walk through it to their files
        with exclusive(self._path):
            yield


def check_name(name: str) -> str:
    """Returns the name of a token, or raises InvalidInput."""
    if not re.fullmatch(_NAME, name):
        raise InvalidInput(f"{name!r} is no name of a token", hint="use 1 to 63 letters, digits, dots, hyphens and underscores")
    return name


def check_scopes(scopes: Collection[str]) -> frozenset[str]:
    """Returns the scopes, `full` if there are none; raises UnknownKey for one that does not exist, InvalidInput for `host` alone."""
    for scope in scopes:
        if scope.startswith(_SANDBOX):
            if not re.fullmatch(_SUBJECT, scope.removeprefix(_SANDBOX)):
                raise InvalidInput(f"the scope {scope!r} names no sandbox", hint="for example: sandbox:work")
        elif scope not in SCOPES:
            raise UnknownKey(f"there is no scope {scope!r}", hint=suggest(scope, [*SCOPES, f"{_SANDBOX}NAME"]))
    found = frozenset(scopes) or frozenset({"full"})
    if found == {"host"}:
        raise InvalidInput("the scope 'host' allows nothing by itself", hint="for example: --scope full --scope host")
    return found


def _made(name: str, scopes: frozenset[str]) -> tuple[str, Token]:
    secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return secret, Token(name=name, scopes=scopes, sha256=_digest(secret), created_at=round(time.time(), 3))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _from_json(item: Mapping[str, object]) -> Token:
    scopes = item["scopes"]
    if not isinstance(scopes, list):
        raise TypeError("scopes are a list")
    name, digest, created_at = item["name"], item["sha256"], item["created_at"]
    if not (isinstance(name, str) and isinstance(digest, str) and re.fullmatch(_DIGEST, digest) and isinstance(created_at, int | float)):
        raise ValueError("a token is a name, scopes, a SHA-256 and a time")
    return Token(name=name, scopes=frozenset(str(scope) for scope in scopes), sha256=digest, created_at=float(created_at))
