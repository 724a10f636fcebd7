"""The sandbox's resolver: a name that may be reached gets an address that stands for it inside; nothing is asked outside for it.

So a look-up carries nothing out of the sandbox, and the real addresses are looked up and judged when it connects.
"""

from __future__ import annotations

import asyncio
import errno
import time
from typing import TYPE_CHECKING, Final

from agentkernel.egress.attempt import RefusedError
from agentkernel.egress.dns import AAAA, A, BadQuery, Code, DnsStream, over_tcp, parse_query
from agentkernel.egress.names import TTL_S
from agentkernel.egress.tunnel import Tunnel
from agentkernel.policy.egress import LOOKUP, rule_name

if TYPE_CHECKING:
    from agentkernel.egress.sandbox import Sandbox

IDLE_S: Final = 30.0  # of a TCP connection between two queries
# What programs ask beside the A record, to be told that there is none: AAAA, SVCB, HTTPS.
_EMPTY: Final = frozenset({AAAA, 64, 65})


def answer(sandbox: Sandbox, message: bytes) -> bytes:
    """The answer to one query; empty: none is to be sent."""
    try:
        query = parse_query(message)
    except BadQuery as error:
        return error.answer
    if query.kind != A and query.kind not in _EMPTY:
        return query.refuse()
    attempt = sandbox.attempt("dns", query.host, 0)
    ruling = rule_name(sandbox.site.rules, query.host, LOOKUP)
    attempt.rule = ruling.rule
    if not ruling.allowed:
        attempt.refuse(RefusedError(ruling.reason, rule=ruling.rule))
        return query.refuse(text=ruling.reason)
    if query.kind != A:
        return query.answer((), TTL_S)
    if not sandbox.site.lookups.admit(query.host, time.monotonic()):
        refused = RefusedError("too many different names are looked up", rule="limit lookups", number=errno.EAGAIN)
        attempt.refuse(refused)
        return query.refuse(Code.SERVER_FAILURE, refused.reason)
    attempt.allow()
    return query.answer((sandbox.site.names.address_of(query.host),), TTL_S)


async def serve_resolver(sandbox: Sandbox, tunnel: Tunnel) -> None:
    """Queries by TCP (RFC 7766)."""
    stream = DnsStream()
    try:
        while True:
            async with asyncio.timeout(IDLE_S):
                for message in stream.feed(tunnel.take(len(tunnel.buffer))):
                    said = answer(sandbox, message)
                    if said:
                        tunnel.send(over_tcp(said))
                    await tunnel.sent()  # who does not read is not answered on
                    await asyncio.sleep(0)  # others have their turn
                if not await tunnel.more():
                    break
    except (BadQuery, TimeoutError):
        pass
    tunnel.end()
    tunnel.close(0)
