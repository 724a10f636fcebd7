"""A proxy that this process's environment names on the way to a daemon elsewhere, and what is said of one that cannot be used."""

from __future__ import annotations

import urllib.request
from ipaddress import ip_address
from typing import Final

from websockets.exceptions import InvalidProxy, InvalidProxyStatus, WebSocketException

from agentkernel.config.elsewhere import Elsewhere
from agentkernel.errors import InvalidInput, ServerUnavailable, Unsupported

LATER: Final = frozenset({500, 502, 503, 504})  # who answers so may answer otherwise soon
_KINDS: Final = frozenset({"http", "https", "socks"})  # of `urllib.request.getproxies`
_HINT: Final = "HTTPS_PROXY and HTTP_PROXY name proxies, NO_PROXY hosts that need none"


def is_loopback(host: str) -> bool:
    """Whether no proxy is asked the way to it, whatever the environment says: for a proxy it would be another machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def suspicion(elsewhere: Elsewhere) -> str:
    """What is added where nothing answers: it may have been a proxy."""
    if is_loopback(elsewhere.host) or not _KINDS & urllib.request.getproxies().keys():
        return ""
    return "" if urllib.request.proxy_bypass(f"{elsewhere.host}:{elsewhere.port}") else " (of the proxy on the way, perhaps)"


def refusal(elsewhere: Elsewhere, error: WebSocketException | ImportError) -> Exception:
    """The error of a proxy that is none, answers otherwise than it should, or takes a package that is missing; has no password in it.

    A ConnectionError where it may be otherwise soon, as when the server behind it is being started again.
    """
    if isinstance(error, ImportError):
        hint = f"pip install python-socks; {_HINT}"
        return Unsupported(f"the proxy on the way to {elsewhere.url} takes the package python-socks", hint=hint)
    if isinstance(error, InvalidProxy):
        return InvalidInput(f"the proxy on the way to {elsewhere.url} is none: {error.msg}", hint=_HINT)
    if not isinstance(error, InvalidProxyStatus):
        return ServerUnavailable(f"the proxy on the way to {elsewhere.url} cannot be used: {type(error).__name__}", hint=_HINT)
    status = error.response.status_code
    if status in LATER:
        return ConnectionError(f"the proxy on the way answers {status}")
    return ServerUnavailable(f"the proxy does not let us through to {elsewhere.url}: it answered {status}", hint=_HINT)
