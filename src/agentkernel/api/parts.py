"""What the application is built of."""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from agentkernel.abc import Caller, Kernel
from agentkernel.api.limits import Limits
from agentkernel.config.tokens import TokenStore

Tunnel = Callable[[Caller], Awaitable[tuple[StreamReader, StreamWriter]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the application is built of.

    `doors` makes (or hands out) the kernel of a caller; it is asked once for each. `tokens` is None where none is needed, and then every
    request is `caller`'s; with tokens, a request is `caller`'s principal with the scopes of its token. `hosts`: the names, without port,
    under which the server may be asked for; None: any (a unix socket, which no browser reaches). `origins`: what pages may ask, as
    `https://name[:port]`. `tunnel` opens the daemon's byte stream; None where there is no daemon. `environment` is the operator's, from
    which requests take their defaults and limits.
    """

    doors: Callable[[Caller], Kernel]
    caller: Caller
    version: str
    environment: Mapping[str, str]
    tokens: TokenStore | None = None
    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()
    tunnel: Tunnel | None = None
    limits: Limits = field(default_factory=Limits)
    log: Callable[[str], None] | None = None  # is given one line for each request
