"""TLS over a tunnel or over a connection to a server, as a stream: for the hosts that a sandbox's secrets are bound to."""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - `ssl` looks it up for names, which a confined process can no longer
import errno
import os
import ssl
from typing import Final, Protocol

from agentkernel.egress.tunnel import Tunnel
from agentkernel.egress.upstream import Upstream

HTTP_1: Final = ("http/1.1",)
READ_BYTES: Final = 65_536
_MAX_KEY_BYTES: Final = 65_536
_RECORDS_A_TURN: Final = 32  # then others have theirs: thousands of tiny records may be there at once


class Link(Protocol):
    """What carries the encrypted bytes."""

    async def receive(self) -> bytes:
        """The next ones; empty at the end. Raises OSError."""
        ...

    async def send(self, data: bytes) -> None:
        """Sends them, waiting while the other end does not read. Raises OSError."""
        ...


class TunnelLink:
    """To a program in the sandbox."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    async def receive(self) -> bytes:
        """See `Link`."""
        if not await self._tunnel.some():
            return b""
        return self._tunnel.take(len(self._tunnel.buffer))

    async def send(self, data: bytes) -> None:
        """See `Link`."""
        self._tunnel.send(data)
        await self._tunnel.sent()
        if self._tunnel.is_over:
            raise ConnectionResetError(errno.ECONNRESET, "the program has closed the connection")


class UpstreamLink:
    """To a server."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def receive(self) -> bytes:
        """See `Link`."""
        if not self._upstream.buffer:
            await self._upstream.receive()
        data, self._upstream.buffer = self._upstream.buffer, b""
        return data

    async def send(self, data: bytes) -> None:
        """See `Link`."""
        await self._upstream.send(data)


class TlsStream:
    """One end of TLS. One task may receive while another one sends; `ssl.SSLError` is an OSError, and so is all that it raises."""

    def __init__(self, link: Link, context: ssl.SSLContext, *, server_name: str | None = None) -> None:
        """`server_name`: of the server that this is the client of; None: this is the server."""
        self._link = link
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._flushing = asyncio.Lock()
        self._records = 0  # that were received
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name)

    async def handshake(self) -> None:
        """Raises OSError; ssl.SSLCertVerificationError for a server that is not who it should be."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError:
                await self._flush()  # the alert says why
                raise
            else:
                await self._flush()
                return

    async def receive(self) -> bytes:
        """What comes next, at most 64 KiB; empty when the other end has said that nothing more comes. A cut raises OSError."""
        while True:
            try:
                data = self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLZeroReturnError:
                return b""
            else:
                if self._outgoing.pending:
                    await self._flush()
                self._records += 1
                if self._records % _RECORDS_A_TURN == 0:
                    await asyncio.sleep(0)
                return data

    def is_quiet(self) -> bool:
        """Whether nothing waits to be received, not even the other end's last word; what does is lost."""
        try:
            self._tls.read(1)
        except ssl.SSLWantReadError:
            return True
        except ssl.SSLError:
            return False
        return False

    async def send(self, data: bytes | memoryview) -> None:
        """Sends it, waiting while the other end does not read."""
        if data:
            self._tls.write(data)
            await self._flush()

    async def end(self) -> None:
        """Says that nothing more comes."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the other end has not said so, and need not
        await self._flush()

    async def _fill(self) -> None:
        data = await self._link.receive()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        async with self._flushing:
            data = self._outgoing.read()
            if data:
                await self._link.send(data)


def server_context(leaf: str) -> ssl.SSLContext:
    """For a server with that certificate and key (PEM), which are never in a file system."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    context.set_alpn_protocols(HTTP_1)
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, leaf.encode("ascii")[:_MAX_KEY_BYTES])
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)
    return context


def client_context(trust: str) -> ssl.SSLContext:
    """For a client that trusts those certificates (PEM; empty: what OpenSSL finds) and checks the server's name."""
    context = ssl.create_default_context(cadata=trust or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(HTTP_1)
    return context
