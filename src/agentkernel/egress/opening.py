"""Connections that are passed through as they are: what CONNECT, SOCKS and transparent ones have in common.

A connection to a name that begins with TLS must name that very host in its ClientHello: what is encrypted later nobody checks.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Final

from agentkernel.egress.attempt import Attempt, RefusedError
from agentkernel.egress.reach import names_port
from agentkernel.egress.relay import relay
from agentkernel.egress.terminate import terminate
from agentkernel.egress.tls import ALERT, FIRST_BYTE, BadHello, ClientHello, ClientHelloReader, begins_hello
from agentkernel.egress.tunnel import Tunnel
from agentkernel.egress.upstream import Upstream
from agentkernel.egress.vault import Vault
from agentkernel.model.hosts import is_address
from agentkernel.policy.egress import rule_name

if TYPE_CHECKING:
    from agentkernel.egress.sandbox import Sandbox

TLS_PORT: Final = 443  # where nothing but TLS is spoken, unless a rule names the port
TOLD_AFTER_S: Final = 1.0  # by then a connection is told of, whether the program has said something or not
ALERT_S: Final = 2.0
_RULE: Final = "tls name"


async def pass_through(sandbox: Sandbox, tunnel: Tunnel, attempt: Attempt, upstream: Upstream) -> None:
    """Passes bytes both ways to the end, the program's first ones when they are found right; tells the attempt's outcome."""
    later = sandbox.around.desk.loop.call_later(TOLD_AFTER_S, attempt.allow)
    vault = sandbox.site.vault
    try:
        if vault is not None and vault.is_bound(attempt.host, attempt.port):
            await _take_out(sandbox, vault, tunnel, attempt, upstream)
            return
        await relay(tunnel, upstream, sandbox.count, _admitted(sandbox, tunnel, attempt))
    finally:
        later.cancel()
        attempt.allow()


async def _take_out(sandbox: Sandbox, vault: Vault, tunnel: Tunnel, attempt: Attempt, upstream: Upstream) -> None:
    """Takes a connection to the host of a secret out of its TLS, which it must begin with."""
    try:
        await _check_beginning(sandbox, tunnel, attempt)
        if tunnel.buffer and tunnel.buffer[0] != FIRST_BYTE:
            raise RefusedError("a secret is bound to this port, so TLS is spoken there and nothing else", rule=_RULE, number=errno.EPROTO)
    except RefusedError as refused:
        attempt.refuse(refused)
        await _close_with_alert(tunnel)
        tunnel.close()
    else:
        attempt.allow()
        await terminate(sandbox, vault, tunnel, attempt, upstream)
    finally:
        upstream.close()


async def _admitted(sandbox: Sandbox, tunnel: Tunnel, attempt: Attempt) -> bool:
    """Whether what the program begins with may go to where it is connected; tells a refusal."""
    try:
        await _check_beginning(sandbox, tunnel, attempt)
    except RefusedError as refused:
        attempt.refuse(refused)
        await _close_with_alert(tunnel)
        return False
    attempt.allow()
    return True


async def _close_with_alert(tunnel: Tunnel) -> None:
    """Tells a TLS client why, as far as TLS has words for it, and gives it a moment to read them."""
    if tunnel.buffer and tunnel.buffer[0] == FIRST_BYTE:
        tunnel.send(ALERT)
        tunnel.end()
        try:
            async with asyncio.timeout(ALERT_S):
                await tunnel.finished()
        except TimeoutError:
            pass  # the caller closes it


async def _check_beginning(sandbox: Sandbox, tunnel: Tunnel, attempt: Attempt) -> None:
    rules = sandbox.site.rules
    may_be_plain = attempt.port != TLS_PORT or is_address(attempt.host) or names_port(rules, attempt.rule, attempt.port)
    if not await tunnel.some():
        return
    if tunnel.buffer[0] != FIRST_BYTE:
        if not may_be_plain:
            raise RefusedError("what is spoken at port 443 is not TLS, and no rule names that port", rule=_RULE, number=errno.EPROTO)
        return
    try:
        hello = await _hello(tunnel)
    except BadHello as error:
        if may_be_plain and not begins_hello(tunnel.buffer):
            return
        raise RefusedError(f"the TLS handshake is not usable: {error}", rule=_RULE, number=errno.EPROTO) from None
    _check_name(sandbox, attempt, hello.host)


async def _hello(tunnel: Tunnel) -> ClientHello:
    """Reads the ClientHello, which stays in the tunnel's buffer; raises BadHello."""
    reader, seen = ClientHelloReader(), 0
    while True:
        hello = reader.feed(bytes(tunnel.buffer[seen:]))
        seen = len(tunnel.buffer)
        if hello is not None:
            return hello
        if not await tunnel.more():
            raise BadHello("it is cut off")


def _check_name(sandbox: Sandbox, attempt: Attempt, server_name: str) -> None:
    """Raises RefusedError where the handshake is not for the host that was judged; `server_name` is empty where it names none."""
    if is_address(attempt.host):
        ruling = rule_name(sandbox.site.rules, server_name, attempt.port) if server_name else None
        if ruling is not None and ruling.rule.startswith("deny "):  # an address is no way round a denial
            raise RefusedError(ruling.reason, rule=ruling.rule)
    elif server_name != attempt.host:
        what = "names another server" if server_name else "names no server"
        raise RefusedError(f"the TLS handshake {what}, and {attempt.host} was asked for", rule=_RULE)
