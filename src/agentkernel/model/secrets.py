"""Where a secret may go: bindings as users write them, and paths compared so that no server reads them otherwise. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import unquote_to_bytes

from agentkernel.errors import InvalidInput
from agentkernel.model.hosts import is_address, normal_host
from agentkernel.model.names import validate_environment_name
from agentkernel.model.network import Secret

TLS_PORT: Final = 443
MAX_HOSTS: Final = 16
MAX_PATH: Final = 1024
HINT: Final = "write NAME=ENV:VARIABLE@api.example.com, or FILE:path@... or KEYRING:service/user@...; or NAME@... for ENV:NAME"
# Of the connection or of the proxy itself: what is written there never arrives as it is.
_UNFIT_HEADERS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"})
_BINDING = re.compile(r"(?:([A-Z]{1,32}):)?([^/#?]+)(/[^#?]*)?(?:#([A-Za-z0-9-]{1,64}))?")
_UNESCAPED = re.compile(rb"[\x21-\x7e]+")


def bound(name: str, binding: str) -> Secret:
    """A secret of `[METHOD:]host[:port][,...][/path][#header]`; raises InvalidInput, which shows nothing of a value."""
    found = _BINDING.fullmatch(binding)
    if found is None:
        raise InvalidInput(f"{binding!r} does not say where the secret {name} may go", hint=HINT)
    method, hosts, path, header = (part or "" for part in found.groups())
    return checked(name, tuple(hosts.split(",")), path=path, method=method, header=header)


def checked(name: str, hosts: tuple[str, ...], *, path: str = "", method: str = "", header: str = "") -> Secret:
    """A secret in its one spelling; raises InvalidInput."""
    validate_environment_name(name)
    if not 1 <= len(hosts) <= MAX_HOSTS:
        raise InvalidInput(f"a secret is bound to 1 to {MAX_HOSTS} hosts", hint=HINT)
    if not re.fullmatch(r"[A-Z]{0,32}", method):
        raise InvalidInput(f"{method!r} is no method of HTTP", hint="in capitals: GET, POST, ...")
    if not re.fullmatch(r"[A-Za-z0-9-]{0,64}", header) or header.lower() in _UNFIT_HEADERS or header.lower().startswith("proxy-"):
        raise InvalidInput(f"a secret cannot go into the header {header!r}", hint="such as authorization or x-api-key")
    segments = safe_segments(path.encode()) if path else ()
    if segments is None or len(path) > MAX_PATH:
        raise InvalidInput(f"{path!r} is no path that a secret can be bound to", hint="a plain one, such as /v1/messages")
    return Secret(
        name=name,
        hosts=tuple(dict.fromkeys(_host(host) for host in hosts)),
        path=path.rstrip("/"),
        method=method,
        header=header.lower(),
    )


def describe(secret: Secret) -> str:
    """Where it may go, as users write it."""
    method = f"{secret.method}:" if secret.method else ""
    return f"{method}{','.join(secret.hosts)}{secret.path}{f'#{secret.header}' if secret.header else ''}"


def host_and_port(host: str) -> tuple[str, int]:
    """Of a secret's host, which is in its one spelling."""
    name, _, port = host.partition(":")
    return name, int(port or TLS_PORT)


def is_below(path: bytes, prefix: str) -> bool:
    """Whether a request's path (without query) is `prefix` or below it, whoever reads it; False for one that can be read in two ways."""
    if not prefix:
        return True
    segments, wanted = safe_segments(path), safe_segments(prefix.encode())
    return segments is not None and wanted is not None and segments[: len(wanted)] == wanted


def safe_segments(path: bytes) -> tuple[bytes, ...] | None:
    """The decoded segments of a path; None where servers, caches or frameworks disagree about what it names.

    Those are: `.` and `..` in any spelling and with parameters after them (`..;x`), empty segments, slashes that are encoded or
    backward, what is encoded twice, control characters, what is no UTF-8 (`%c0%ae`), and wide letters that some take for one of these.
    """
    if not path.startswith(b"/") or not _UNESCAPED.fullmatch(path) or b"\\" in path:
        return None
    raw = path[1:].split(b"/")
    if raw[-1] == b"":
        raw.pop()
    segments = tuple(unquote_to_bytes(part) for part in raw)
    return None if any(_is_unsafe(segment) for segment in segments) else segments


def _is_unsafe(segment: bytes) -> bool:
    try:
        text = unicodedata.normalize("NFKC", segment.decode())
    except UnicodeDecodeError:
        return True
    name = text.partition(";")[0].strip()
    return name in ("", ".", "..") or any(letter in "/\\%" or letter < " " or letter == "\x7f" for letter in text)


def _host(text: str) -> str:
    name, colon, port = text.strip().partition(":")
    try:
        host = normal_host(name)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no host that a secret can be bound to: {error}", hint=HINT) from None
    if is_address(host) or "*" in host:
        raise InvalidInput(f"a secret is bound to exact names, not to {text!r}", hint="name each host")
    if colon and not (re.fullmatch(r"[1-9][0-9]{0,4}", port) and int(port) <= 65535):
        raise InvalidInput(f"{text!r} has no port between 1 and 65535")
    return host if not colon or int(port) == TLS_PORT else f"{host}:{int(port)}"
