"""Who a user is to a registry: what `docker login` and `podman login` have left.

Read anew for each pull, in this order, the first that knows the registry wins:

    $REGISTRY_AUTH_FILE, else $XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json      (containers-auth.json(5))
    $DOCKER_CONFIG/config.json, else ~/.docker/config.json                     (docker's: auths, credHelpers, credsStore)

In a file, a helper program for the registry comes before the file's helper program for all, and that before what the file holds itself.
Passwords are kept for one pull, and are in no message, log or representation.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentkernel.errors import ImageFailed, InvalidInput
from agentkernel.images.reference import DOCKER_HUB, Reference

MAX_FILE_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024
_HINT = "repair the file or remove it, and log in again with the program that wrote it"
HELPER_TIMEOUT_S = 30.0
HUB_KEY = "https://index.docker.io/v1/"  # how docker calls its own registry
_HELPER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TOKEN_USER = "<token>"  # noqa: S105 - the name by which a helper says that the secret is an identity token
_NOT_KNOWN = "credentials not found"  # what helpers say for that, with a status that is not 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user's name and password, or a token that stands for both."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class Credentials:
    """The logins of one user."""

    def __init__(self, environment: Mapping[str, str], home: str) -> None:
        self._environment = environment
        self._home = home

    async def login_for(self, reference: Reference) -> Login | None:
        """The login for an image's registry; None: nobody has logged in.

        Raises:
            InvalidInput: a file is not what it must be.
            ImageFailed: a helper program fails, or is not there.
        """
        for path in self._files():
            document = await asyncio.to_thread(_read, path)
            if document is not None:
                login = await self._from_file(document, path, reference)
                if login is not None:
                    return login
        return None

    def _files(self) -> Iterator[str]:
        given = self._environment.get
        if named := given("REGISTRY_AUTH_FILE", ""):
            yield named
        else:
            if runtime := given("XDG_RUNTIME_DIR", ""):
                yield f"{runtime}/containers/auth.json"
            yield f"{given('XDG_CONFIG_HOME', '') or self._home + '/.config'}/containers/auth.json"
        yield f"{given('DOCKER_CONFIG', '') or self._home + '/.docker'}/config.json"

    async def _from_file(self, document: Mapping[str, Any], path: str, reference: Reference) -> Login | None:
        helpers = _section(document, "credHelpers", path)
        for key in _keys(reference):
            if isinstance(name := helpers.get(key), str) and name:
                return await self._ask(name, key)
        store = document.get("credsStore")
        if isinstance(store, str) and store:
            key = HUB_KEY if reference.registry == DOCKER_HUB else reference.registry
            found = await self._ask(store, key)
            if found is not None:
                return found
        entries = {_plain(key): value for key, value in _section(document, "auths", path).items()}
        for key in _keys(reference):
            entry = entries.get(_plain(key))
            if isinstance(entry, dict) and (login := _login(entry, path)) is not None:
                return login
        return None

    async def _ask(self, name: str, server: str) -> Login | None:
        """What a credential helper answers: a program of the user's, called as docker calls it."""
        program = f"docker-credential-{name}"
        found = shutil.which(program, path=self._environment.get("PATH") or os.defpath) if _HELPER_NAME.fullmatch(name) else None
        if found is None:
            raise ImageFailed(
                f"the credential helper {program!r} is not installed",
                hint="install it, or take it out of the configuration that names it (credHelpers, credsStore)",
            )
        child = await asyncio.create_subprocess_exec(
            found,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"HOME": self._home, **self._environment},
            cwd="/",
        )
        try:
            async with asyncio.timeout(HELPER_TIMEOUT_S):
                said, _ = await child.communicate(server.encode())
        except TimeoutError:
            raise ImageFailed(f"{program} does not answer within {HELPER_TIMEOUT_S:g} seconds") from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        text = said[:MAX_ANSWER_BYTES].decode(errors="replace")
        if child.returncode != 0:
            if _NOT_KNOWN in text.lower():
                return None
            raise ImageFailed(f"{program} failed with status {child.returncode}", hint=f"try: echo {server} | {program} get")
        return _answer(text, program)


def _answer(text: str, program: str) -> Login | None:
    try:
        answer = json.loads(text)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ImageFailed(f"{program} answers something that is no login") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise ImageFailed(f"{program} answers something that is no login")
    if not secret:
        return None
    return Login(identity_token=secret) if username == _TOKEN_USER else Login(username=username, password=secret)


def _keys(reference: Reference) -> Iterator[str]:
    """How the files may call it, the most exact first: podman's name a registry's namespaces too."""
    parts = f"{reference.registry}/{reference.repository}".split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join(parts[:count])
    if reference.registry == DOCKER_HUB:
        yield HUB_KEY


def _plain(key: str) -> str:
    """Docker's older versions wrote addresses: https://registry.example/v1/."""
    plain = key.removeprefix("https://").removeprefix("http://")
    if plain != key:
        plain = plain.rstrip("/").removesuffix("/v1").removesuffix("/v2")
    return DOCKER_HUB if plain in {"index.docker.io", "registry-1.docker.io"} else plain


def _login(entry: Mapping[str, Any], path: str) -> Login | None:
    token, packed = entry.get("identitytoken"), entry.get("auth")
    if isinstance(token, str) and token:
        return Login(identity_token=token)
    if isinstance(packed, str) and packed:
        try:
            username, colon, password = base64.b64decode(packed, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            raise InvalidInput(f"{path}: an `auth` is not base64 of name:password", hint=_HINT) from None
        return Login(username=username, password=password.rstrip("\0")) if colon and username else None
    name, secret = entry.get("username"), entry.get("password")
    return Login(username=name, password=secret) if isinstance(name, str) and isinstance(secret, str) and name else None


def _section(document: Mapping[str, Any], key: str, path: str) -> Mapping[str, Any]:
    section = document.get(key)
    if section is not None and not isinstance(section, dict):
        raise InvalidInput(f"{path}: {key!r} is not an object", hint=_HINT)
    return section or {}


def _read(path: str) -> Mapping[str, Any] | None:
    """The file's content; None: there is none, or not for us."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with open(descriptor, "rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or len(content) > MAX_FILE_BYTES:
        raise InvalidInput(f"{path} is not a JSON object of at most {MAX_FILE_BYTES} bytes", hint=_HINT)
    return document
